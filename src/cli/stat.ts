/** mmapkv stat: numbers about a store. */
import type { StoreStats } from '../stats.js';
import { type Command, Exit, storeWord } from './command.js';
import { printable, writeOut } from './output.js';
import { reading } from './stores.js';

export const stat: Command = {
  name: 'stat',
  about: 'show sizes, fill, garbage, what was done, and owners',
  details:
    'Gets and the like are counted over all opens for writing since the machine was started, up to a second ago. ' +
    'Owners are the processes (and worker threads) that have the store open for writing.',
  words: [storeWord],
  options: [['--json', 'as one line of JSON; sizes in bytes, times in ms since 1970']],
  run([path], options) {
    const { path: absolute, stats } = reading(path!, (store) => ({ path: store.path, stats: store.stats() }));
    // The rest of stats() counts what this very open did: nothing.
    const {
      entries,
      segments,
      depth,
      fileSize,
      allocatedSize,
      liveBytes,
      deadBytes,
      freeBytes,
      quarantinedBytes,
      segmentSize,
      epoch,
      durableEpoch,
      total,
      owners,
    } = stats;
    const maxSize = stats.maxSize ?? null;
    const sizes = { fileSize, allocatedSize, liveBytes, deadBytes, freeBytes, quarantinedBytes, maxSize, segmentSize };
    const facts = { path: absolute, entries, segments, depth, ...sizes, epoch, durableEpoch: durableEpoch ?? null, total, owners };
    writeOut(options['json'] === true ? `${JSON.stringify(facts)}\n` : table(absolute, stats));
    return Exit.done;
  },
};

function table(path: string, stats: StoreStats): string {
  const share = (bytes: number) => `${bytesText(bytes)}, ${((100 * bytes) / stats.fileSize).toFixed(1)} % of the file`;
  const { total } = stats;
  const rows: [string, string][] = [
    ['path', printable(path)],
    ['entries', count(stats.entries)],
    ['file size', `${bytesText(stats.fileSize)} (${bytesText(stats.allocatedSize)} on disk)`],
    ['maximum', stats.maxSize === undefined ? 'none' : bytesText(stats.maxSize)],
    ['in use', share(stats.liveBytes)],
    ['garbage', `${share(stats.deadBytes)} (replaced, deleted, or room not used yet)`],
    ['free', share(stats.freeBytes)],
    ['quarantine', share(stats.quarantinedBytes)],
    ['segments', `${count(stats.segments)} of up to ${bytesText(stats.segmentSize)}, directory depth ${stats.depth}`],
    ['epoch', count(stats.epoch)],
    ['gets', `${count(total.hits + total.misses)}, ${hitRatio(total)}`],
    ['writes', `${count(total.sets)} sets, ${count(total.deletes)} deletes`],
    ['dropped', `${count(total.expirations)} expired, ${count(total.evictions)} evicted`],
    ['rebuilt', `${count(total.splits)} splits, ${count(total.compactions)} compactions`],
    ['owners', count(stats.owners.length)],
    ...stats.owners.map(({ pid, threadId, since }): [string, string] => [
      '',
      `pid ${pid}, thread ${threadId}, since ${new Date(since).toISOString()}`,
    ]),
  ];
  return rows.map(([name, text]) => `${name.padEnd(12)}${text}\n`).join('');
}

function hitRatio({ hits, misses }: StoreStats['total']): string {
  return hits + misses === 0 ? 'no hits' : `${((100 * hits) / (hits + misses)).toFixed(1)} % of them hits`;
}

function count(value: number): string {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ',');
}

export function bytesText(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let scaled = bytes;
  let unit = 0;
  while (Math.abs(scaled) >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit++;
  }
  return `${unit === 0 ? scaled : scaled.toFixed(1)} ${units[unit]}`;
}
