/**
 * Makes up the disk after a power loss from a recording (crash-recorder.mjs).
 *
 * The model, exactly: with the crash at instant c, and f the start of the last sync of the page that was complete at c (most
 * syncs are of the whole file), each page of 4 KiB (or each sector of 512 bytes) holds its content of any instant from f to c,
 * each on its own. The size of the file is that of any instant since the last sync of the whole file, on its own: pages past it
 * are cut off, pages that were not there at their instant are zero. A looser model (without floors) raises false alarms.
 */
import { DATA, ENTRY_HEADER, MARK, PAGE, PAGE_SIZE, REDO, SIZE, SYNC_END, SYNC_START } from './crash-recorder.mjs';

const SECTOR_SIZE = 512;
const ZEROS = Buffer.alloc(PAGE_SIZE);

class RecordedFile {
  /** Page number -> versions {instant, bytes} in their order. */
  pages = new Map();
  sizes = [];
  /** {start, end, covers}: instants of completed syncs; covers(page): was it synced? undefined: every page was. */
  syncs = [];
}

export class Recording {
  files = [new RecordedFile(), new RecordedFile()];
  /** {instant, what} */
  marks = [];
  last = 0;

  constructor(journal) {
    const started = new Map();
    for (let at = 0; at < journal.length; ) {
      const type = journal.readUInt8(at);
      const file = this.files[journal.readUInt8(at + 1)];
      const instant = journal.readUInt32LE(at + 4);
      const value = journal.readDoubleLE(at + 8);
      const length = journal.readUInt32LE(at + 16);
      const payload = journal.subarray(at + ENTRY_HEADER, at + ENTRY_HEADER + length);
      at += ENTRY_HEADER + length;
      this.last = instant;
      if (type === PAGE) {
        const versions = file.pages.get(value);
        if (versions === undefined) file.pages.set(value, [{ instant, bytes: payload }]);
        else versions.push({ instant, bytes: payload });
      } else if (type === SIZE) file.sizes.push({ instant, size: value });
      else if (type === SYNC_START) started.set(value, { start: instant, covers: length === 0 ? undefined : coverage(payload) });
      else if (type === SYNC_END) file.syncs.push({ ...started.get(value), end: instant });
      else if (type === MARK) this.marks.push({ instant, what: JSON.parse(payload.toString()) });
      else throw new Error(`the journal is damaged at ${at}`);
    }
  }

  /** The first instant at which everything is on the disk: crashes come after it. */
  get first() {
    return Math.max(...this.files.map(({ syncs }) => syncs[0].end));
  }

  /** What tells of each page when its last sync began that was complete at `crash`; of 'size', that of the whole file. */
  floors(file, crash) {
    let whole = 0;
    for (const { start, end, covers } of this.files[file].syncs) if (end <= crash && covers === undefined && start > whole) whole = start;
    const parts = this.files[file].syncs.filter(({ start, end, covers }) => end <= crash && covers !== undefined && start > whole);
    parts.sort((a, b) => b.start - a.start);
    return (page) => (page === 'size' ? whole : (parts.find(({ covers }) => covers(page))?.start ?? whole));
  }
}

/** Of runs of pages {first, count}, in their order. */
function coverage(payload) {
  const pairs = new Uint32Array(Uint8Array.from(payload).buffer);
  return (page) => {
    let low = 0;
    let high = pairs.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (pairs[2 * middle] <= page) low = middle + 1;
      else high = middle;
    }
    return low > 0 && page < pairs[2 * low - 2] + pairs[2 * low - 1];
  };
}

/** Index of the last of `list` that is not later than `instant`; -1: none. */
function lastBefore(list, instant) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (list[middle].instant <= instant) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * Ways to choose among the versions of a page, from `oldest` to `newest` (numbers). Real disks do anything; the extremes find most.
 */
const CHOICES = {
  oldest: (oldest) => oldest,
  newest: (_oldest, newest) => newest,
  any: (oldest, newest, random) => oldest + random.below(newest - oldest + 1),
  fewNew: (oldest, newest, random) => (random.below(12) === 0 ? newest : oldest),
  fewOld: (oldest, newest, random) => (random.below(12) === 0 ? oldest : newest),
  ends: (oldest, newest, random) => (random.below(2) === 0 ? oldest : newest),
};
const NAMES = Object.keys(CHOICES);

/** How one image is put together: all of it follows from the random numbers. */
export function planImage(recording, random) {
  const crash = chooseCrash(recording, random);
  return {
    crash,
    unit: random.below(2) === 0 ? PAGE_SIZE : SECTOR_SIZE,
    choice: NAMES[random.below(NAMES.length)],
    // A choice of its own for the header's copies and the root, and one for each extent or one for all.
    header: random.below(2) === 0 ? undefined : NAMES[random.below(NAMES.length)],
    byExtent: random.below(4) === 0,
    size: NAMES[random.below(3)],
    control: ['missing', 'stale', 'torn', 'empty'][random.below(4)],
  };
}

/** Half of the crashes strike close to a sync's start or end. */
function chooseCrash(recording, random) {
  const { first, last } = recording;
  const { syncs } = recording.files[DATA];
  if (random.below(2) === 0) {
    const { start, end } = syncs[random.below(syncs.length)];
    const near = (random.below(2) === 0 ? start : end) + random.below(7) - 3;
    if (near >= first && near <= last) return near;
  }
  return first + random.below(last - first + 1);
}

const rooms = [Buffer.alloc(0), Buffer.alloc(0)];

/** Zeros in which to build a file: the same memory for one image after the other. */
function room(number, size) {
  if (rooms[number].length < size) rooms[number] = Buffer.alloc(2 * size);
  return rooms[number].subarray(0, size).fill(0);
}

/** The bytes of one file after the crash; undefined: it did not exist yet. */
export function buildFile(recording, number, plan, random) {
  const file = recording.files[number];
  const { crash } = plan;
  const floors = recording.floors(number, crash);
  const newestSize = lastBefore(file.sizes, crash);
  if (newestSize < 0) return undefined;
  const oldestSize = Math.max(0, lastBefore(file.sizes, floors('size')));
  const { size } = file.sizes[CHOICES[plan.size](oldestSize, newestSize, random)];
  const bytes = room(number, size);
  let choice = CHOICES[plan.choice];
  let extent = -1;
  const pages = [...file.pages.keys()].sort((a, b) => a - b);
  for (const page of pages) {
    if (page * PAGE_SIZE >= size) continue;
    if (plan.byExtent && page >>> 4 !== extent) {
      extent = page >>> 4;
      choice = CHOICES[NAMES[random.below(NAMES.length)]];
    }
    const versions = file.pages.get(page);
    // -1: the zeros from before the first version.
    const oldest = lastBefore(versions, floors(page));
    const newest = lastBefore(versions, crash);
    const chooseBy = plan.header !== undefined && number === DATA && page < 3 ? CHOICES[plan.header] : choice;
    if (oldest === newest) {
      if (newest >= 0) versions[newest].bytes.copy(bytes, page * PAGE_SIZE);
      continue;
    }
    for (let within = 0; within < PAGE_SIZE; within += plan.unit) {
      const chosen = chooseBy(oldest, newest, random);
      const from = chosen < 0 ? ZEROS : versions[chosen].bytes;
      from.copy(bytes, page * PAGE_SIZE + within, within, within + plan.unit);
    }
  }
  return bytes;
}

/**
 * A copy of the file while it is used (cp): read from the start to the end, each page as it was when its turn came.
 */
export function buildCopy(recording, random) {
  const { first, last } = recording;
  const from = first + random.below(last - first + 1);
  const to = Math.min(last, from + random.below(2 ** (1 + random.below(10))));
  const file = recording.files[DATA];
  const { size } = file.sizes[lastBefore(file.sizes, from)];
  const bytes = room(DATA, size);
  for (const [page, versions] of file.pages) {
    const at = page * PAGE_SIZE;
    if (at >= size) continue;
    const chosen = lastBefore(versions, from + Math.floor(((to - from) * at) / size));
    if (chosen >= 0) versions[chosen].bytes.copy(bytes, at);
  }
  return { bytes, from, to };
}

/** PATH.lock means nothing after a reboot, whatever is in it. */
export function buildControl(stale, plan, random) {
  if (plan.control === 'missing' || stale === undefined) return undefined;
  if (plan.control === 'stale') return stale;
  const bytes = Buffer.from(stale);
  if (plan.control === 'empty') return bytes.fill(0);
  for (let at = 0; at < bytes.length; at += PAGE_SIZE) if (random.below(2) === 0) bytes.fill(0, at, Math.min(at + PAGE_SIZE, bytes.length));
  return bytes;
}

export { DATA, REDO };
