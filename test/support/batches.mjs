// Batches that can be told from their number: what each does, and what stands under every key after it.
import { makeValue, random } from './values.mjs';

/** Keys of the batches. Names with "large" have values in extents of their own. */
export const KEYS = [...Array.from({ length: 220 }, (_, i) => `1/k${i}`), ...Array.from({ length: 6 }, (_, i) => `1/large${i}`)];

/** The operations of batch `number`: [key, value], or [key] for a deletion. */
export function operationsOf(number, size = 60) {
  const dice = random(number * 7919);
  const operations = [];
  const count = 1 + dice.below(size);
  for (let i = 0; i < count; i++) {
    const key = KEYS[dice.below(dice.below(20) === 0 ? KEYS.length : 220)];
    if (dice.below(4) === 0) operations.push([key]);
    else operations.push([key, makeValue(key, 1, number)]);
  }
  // Whoever looks at this key knows which batch was the last.
  operations.push(['1/last', makeValue('1/last', 1, number)]);
  return operations;
}

/** Gives the store batch `number`. */
export function commitBatch(store, number, size) {
  const batch = store.batch();
  for (const [key, value] of operationsOf(number, size)) {
    if (value === undefined) batch.delete(key);
    else batch.set(key, value);
  }
  batch.commit();
}

/** What batch `number` changes in a Map from keys to the numbers of the batches that stored what is there. */
export function applyBatch(map, number, size) {
  for (const [key, value] of operationsOf(number, size)) {
    if (value === undefined) map.delete(key);
    else map.set(key, number);
  }
}
