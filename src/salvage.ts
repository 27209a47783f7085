/**
 * Salvage: what is provably good in a damaged file, read without opening it as a store, and without changing it.
 *
 * Nothing is trusted but what a checksum covers. Root, directory and lists of extents are not looked at; heads are found by
 * looking at each extent (salvage-heads.ts), records by walking their logs (salvage-log.ts); a large value counts if the
 * checksum of its content holds, whatever else is said of its extents. Of each key the newest record counts, as for recovery: of the
 * last checkpoint when the store was not closed and this is another boot or a copy of the file, else of now. What is
 * missing is counted by code and named by place.
 */
import { isUtf8 } from 'node:buffer';
import { DecodeError } from './codec.js';
import { fromSystemError, StoreError, storeError } from './errors.js';
import { xxh32Words } from './hash.js';
import { currentBootId, damagedCopies, type Header, newestHeader } from './header.js';
import {
  EXTENT_HEADER_UNITS,
  EXTENT_SIZE,
  EXTENT_UNIT_MASK,
  EXTENT_UNIT_SHIFT,
  EXTENT_UNITS,
  FLAG_LARGE,
  HEADER_SIZE,
  K_TYPE_WORD,
  KIND_FRESH,
  KIND_HOLE,
  KIND_MASK,
  LOG_LIST_COUNT,
  LOG_LIST_WORD,
  LOG_START_BARE,
  LOG_START_INLINE,
  MAX_RECORD_SIZE,
  R_FRESH_WORD,
  S_LOG_COUNT_WORD,
  S_LOG_START_WORD,
  S_TAIL_WORD,
  TYPE_MASK,
  UNIT_SIZE,
  X_SEGMENT_WORD,
  X_STATE_WORD,
} from './layout.js';
import { expiryOf, payloadIndex, payloadSizeOf } from './record.js';
import { type RedoOperation, readRedo } from './redo-scan.js';
import { type CheckReport, type Problem, type ProblemCode, Report } from './report.js';
import { SalvageFile } from './salvage-file.js';
import { type Area, type ChosenHead, Cover, chooseHeads, type LogFound, type Scan, scanHeads } from './salvage-heads.js';
import { type LogPart, type LogRecord, looseSlots, type ReadLog, readLog, readSlots, type Slots } from './salvage-log.js';
import { decodeBytes, readLarge } from './salvage-value.js';

export interface SalvagedEntry {
  key: Buffer;
  value: unknown;
  /** ms since 1970; undefined: never. */
  expiresAt: number | undefined;
  /** The bytes that the file holds for the value. */
  stored: Buffer;
}

export interface SalvageReport extends CheckReport {
  /** Problems by code, those that are not listed included. */
  counts: Partial<Record<ProblemCode, number>>;
  /** Entries left out because they have expired. */
  expired: number;
  /** Whole records left out because they are newer than the last checkpoint. */
  newer: number;
  /** Epoch of the checkpoint whose state this is; undefined: the state of now. */
  checkpoint: number | undefined;
  /** Writes after it that the redo log had (durability 'sync'). */
  redone: number;
}

class Salvage extends Report implements SalvageReport {
  counts: Partial<Record<ProblemCode, number>> = {};
  expired = 0;
  newer = 0;
  checkpoint: number | undefined;
  redone = 0;
  override add(code: ProblemCode, message: string, place: Omit<Problem, 'code' | 'message'> = {}): void {
    this.counts[code] = (this.counts[code] ?? 0) + 1;
    super.add(code, message, place);
  }
}

export interface SalvageOptions {
  /** Take whole records, too, that may have been replaced or deleted by ones that are lost. */
  doubtful?: boolean;
  /** Told how far it is, 0 to 1. */
  onProgress?: (share: number) => void;
}

/** Yields each entry that is provably good; returns what is not. */
export function* salvage(path: string, options: SalvageOptions = {}): Generator<SalvagedEntry, SalvageReport> {
  let file: SalvageFile;
  try {
    file = new SalvageFile(path);
  } catch (error) {
    throw fromSystemError(error, path, 'opening the file');
  }
  try {
    return yield* salvageFile(file, options);
  } finally {
    file.close();
  }
}

function* salvageFile(file: SalvageFile, options: SalvageOptions): Generator<SalvagedEntry, SalvageReport> {
  const report = new Salvage();
  const { header, isSure } = lookAtHeader(file, report);
  const durable = header !== undefined && isSure ? durableEpoch(file, header, report) : Number.POSITIVE_INFINITY;
  if (durable !== Number.POSITIVE_INFINITY) report.checkpoint = durable;
  const scan = scanHeads(file, durable);
  if (header === undefined && scan.sound.size === 0 && scan.logs.size === 0)
    throw storeError(
      'ERR_STORE_NOT_A_STORE',
      file.path,
      'there is nothing of a mmapkv store in the file',
      { size: file.size },
      'check the path',
    );
  const missing = header === undefined ? 0 : header.extentCount * EXTENT_SIZE - file.size;
  if (missing > 0) report.add('UNREADABLE', `the file ends early: ${missing} bytes are missing`, { address: file.size });
  const cover = new Cover();
  const chosen = chooseHeads(scan.heads, cover);
  const redone = durable === Number.POSITIVE_INFINITY ? new Map() : redoOf(file, header!, report);
  if (durable === Number.POSITIVE_INFINITY) {
    for (const extent of scan.notes) report.add('RECORD', 'a batch was cut off: a part of it may be missing', { extent });
  }
  const given = header === undefined ? new Set<string>() : undefined;
  const context: Context = { file, report, redone, given, durable, seed: header?.hashSeed, scan, takesDoubtful: options.doubtful === true };
  report.segments = chosen.length;
  let done = 0;
  for (const one of chosen) {
    if (one.head.isDoubtful) report.add('SEGMENT', 'a segment does not say clearly that it is in use', { extent: one.head.extent });
    yield* segmentEntries(context, one);
    options.onProgress?.(++done / chosen.length);
  }
  yield* remains(context, cover, new Set(chosen.map(({ head }) => head.extent)));
  yield* redoneEntries(context);
  if (file.unreadable > 0) report.add('UNREADABLE', `the disk did not give ${file.unreadable} pages of 4 KiB`);
  return report;
}

interface Context {
  file: SalvageFile;
  report: Salvage;
  durable: number;
  /** Of the hash of keys; undefined: the header is lost. */
  seed: number | undefined;
  scan: Scan;
  takesDoubtful: boolean;
  /** Keys that were given, where two parts of the file may claim them; undefined otherwise. */
  given: Set<string> | undefined;
  /** What the redo log has for a key (as latin1), later than anything that the checkpoint has. */
  redone: ReadonlyMap<string, RedoOperation>;
}

// ---- The header ------------------------------------------------------------------------------------------------------

/** The newest copy of the header that holds; undefined: none does. `isSure`: it says which checkpoint was the last. */
function lookAtHeader(file: SalvageFile, report: Salvage): { header: Header | undefined; isSure: boolean } {
  const words = new Int32Array((2 * HEADER_SIZE) / 4);
  file.read(new Uint8Array(words.buffer), 0);
  const damaged = damagedCopies(words);
  let header: Header | undefined;
  try {
    header = newestHeader(words, Math.min(file.size, words.byteLength), file.path, file.size);
  } catch (error) {
    // Of a version that no checksum vouches for nothing is said.
    if (!(error instanceof StoreError) || (error.code === 'ERR_STORE_FORMAT' && damaged.length < 2)) throw error;
  }
  for (const copy of damaged) report.add('HEADER', `copy ${copy} of the header is damaged`, { address: copy * HEADER_SIZE });
  return { header, isSure: header !== undefined && damaged.length === 0 };
}

/** The epoch whose state counts, as an open would decide it (recovery.ts); Infinity: what is there now. */
function durableEpoch(file: SalvageFile, header: Header, report: Salvage): number {
  const isSameBoot = header.bootId === currentBootId(file.device) && header.device === file.device && header.inode === file.inode;
  if (header.clean || isSameBoot) return Number.POSITIVE_INFINITY;
  if (!header.loose) return header.durableEpoch;
  report.add('HEADER', "the store was in use with durability 'none': what is there may be of different moments", { address: 0 });
  return Number.POSITIVE_INFINITY;
}

/** The operations of the redo log that belong to this file, by key. */
function redoOf(file: SalvageFile, { storeId, controlId, durableEpoch }: Header, report: Salvage): Map<string, RedoOperation> {
  try {
    const operations = readRedo(file.path, storeId, controlId, durableEpoch);
    return new Map(operations.map((operation) => [operation.key.toString('latin1'), operation]));
  } catch (error) {
    report.add('UNREADABLE', `the redo log cannot be read: ${(error as Error).message}`);
    return new Map();
  }
}

function* redoneEntries({ redone, report }: Context): Generator<SalvagedEntry> {
  for (const { key, deleted, type, payload, expiresAt } of redone.values()) {
    report.redone++;
    if (deleted) continue;
    if (expiresAt <= Date.now()) {
      report.expired++;
      continue;
    }
    const value = decodeBytes(type, payload);
    if (value instanceof DecodeError) {
      report.add('VALUE', `a value cannot be read: ${value.message}`, { key: nameOf(key) });
      continue;
    }
    report.entries++;
    yield { key, value, expiresAt: expiresAt === Number.POSITIVE_INFINITY ? undefined : expiresAt, stored: payload };
  }
}

// ---- Segments --------------------------------------------------------------------------------------------------------

/** The parts of a segment's log: those that its list and they themselves name. */
function logParts({ file, scan }: Context, head: number, logStart: number): LogPart[] {
  const words = file.extent(head)!;
  const found = new Map<number, LogFound>();
  for (const one of scan.logs.get(head) ?? []) {
    if (!found.has(one.ordinal) || words[LOG_LIST_WORD + one.ordinal] === one.extent) found.set(one.ordinal, one);
  }
  const count = words[S_LOG_COUNT_WORD]!;
  let last = 0;
  for (const ordinal of found.keys()) last = Math.max(last, ordinal);
  if (count > 0 && count <= LOG_LIST_COUNT && words[LOG_LIST_WORD + count - 1]! > 0) last = Math.max(last, count - 1);
  const parts: LogPart[] = [{ ordinal: 0, extent: head, start: logStart }];
  for (let ordinal = 1; ordinal <= last; ordinal++) {
    const listed = words[LOG_LIST_WORD + ordinal]!;
    const known = found.get(ordinal)?.extent ?? 0;
    // One that does not say what it is may still hold records.
    const extent = known !== 0 ? known : listed > 0 && listed < file.count ? listed : 0;
    parts.push({ ordinal, extent, start: EXTENT_HEADER_UNITS, isUnsure: known === 0, isDamaged: isDamagedPart(file, listed, extent) });
  }
  return parts;
}

/** Is the extent that a log lists gone, or no extent any more, rather than not part of the log yet when its header was written? */
function isDamagedPart(file: SalvageFile, listed: number, extent: number): boolean {
  if (extent === 0) return listed > 0;
  const kind = file.extent(extent)![X_STATE_WORD]! & KIND_MASK;
  const fresh = file.extent(0)![R_FRESH_WORD]!;
  return kind > KIND_HOLE || (kind === KIND_FRESH && extent < fresh && fresh <= file.count);
}

function logStart(words: Int32Array): number {
  return words[S_LOG_START_WORD] === LOG_START_INLINE ? LOG_START_INLINE : LOG_START_BARE;
}

function* segmentEntries(context: Context, { head, areas }: ChosenHead): Generator<SalvagedEntry> {
  const words = context.file.extent(head.extent)!;
  const parts = logParts(context, head.extent, logStart(words));
  yield* logEntries(context, head.extent, parts, readSlots(context.file, head.extent), words[S_TAIL_WORD]!, areas ?? [head]);
}

/** The entries of a log; `head` 0: nothing is left but parts of the log. */
function* logEntries(
  context: Context,
  head: number,
  parts: readonly LogPart[],
  slots: Slots | undefined,
  tailWord: number,
  areas: readonly Area[],
): Generator<SalvagedEntry> {
  const { file, report, durable, seed } = context;
  const isNow = durable === Number.POSITIVE_INFINITY;
  const tail = isNow && head !== 0 && tailWord >= 0 ? tailWord : undefined;
  // A record of elsewhere, copied to a place that a slot refers to, has the birth that its checksum asks for, but not the tag.
  const isProved = (place: number, key: string) =>
    slots?.has(place) === true && (seed === undefined || slots.get(place) === hashOf(Buffer.from(key, 'latin1'), seed));
  const log = readLog(file, parts, { newestEpoch: durable, tail, slots, isProved });
  report.newer += log.newer;
  let damagedUpTo = -1;
  for (const { place, message, extent, offset } of log.damages) {
    report.add(
      'LOG',
      message,
      extent === 0 ? { segment: head } : { extent, offset, segment: head, address: extent * EXTENT_SIZE + offset },
    );
    damagedUpTo = Math.max(damagedUpTo, place);
  }
  // Does the log end where it seems to? An extent of which half is left would have taken any further record.
  const isOpen = EXTENT_UNITS - (log.end & EXTENT_UNIT_MASK) < MAX_RECORD_SIZE / UNIT_SIZE || (log.end & EXTENT_UNIT_MASK) === 0;
  if (isNow && tail !== log.end && isOpen) damagedUpTo = Number.POSITIVE_INFINITY;
  if (tail !== undefined && tail > log.end && log.damages.length === 0)
    report.add('LOG', 'the log of a segment ends before the place that its head names', { extent: head, segment: head });
  if (!isNow && head === 0 && isOpen && log.newer === 0) damagedUpTo = Number.POSITIVE_INFINITY;
  if (isNow && slots !== undefined) {
    for (const place of slots.keys()) {
      if (log.places.has(place)) continue;
      const extent = parts[place >>> EXTENT_UNIT_SHIFT]?.extent ?? 0;
      const where = { extent, offset: (place & EXTENT_UNIT_MASK) * 8, segment: head };
      if (isKnown(log, place, tail)) {
        report.add('INDEX', 'a slot refers to a place where no record begins', where);
      } else {
        // Wherever the log seems to end, it does not: that record is lost.
        report.add('RECORD', 'an entry is lost: its record is damaged', where);
        damagedUpTo = Math.max(damagedUpTo, (place & ~EXTENT_UNIT_MASK) + EXTENT_UNITS);
      }
    }
  }
  const isWanted = (key: Buffer, place: number): boolean => {
    // A part of another log may say that it belongs to this one. (Of stores with a hash of their own, in tests, the tags tell,
    // if the index is that of the log: after a power loss its pages may be of any instant, also of another index.)
    const tag = isNow ? slots?.get(place) : undefined;
    const hash = tag ?? (seed === undefined ? undefined : hashOf(key, seed));
    return hash === undefined || areas.some(({ prefix, depth }) => ((hash ^ prefix) & (2 ** depth - 1)) === 0);
  };
  for (const [text, found] of log.newest) {
    if (context.redone.has(text)) continue;
    const key = Buffer.from(text, 'latin1');
    if (!isWanted(key, found.place) || context.given?.has(text) === true) continue;
    if ((found.place < damagedUpTo || log.doubtful.has(found.place)) && !isProved(found.place, text)) {
      report.add('RECORD', 'a record may have been replaced or deleted by one that is lost', placeOf(found, head, key));
      if (!context.takesDoubtful) continue;
    }
    const entry = readEntry(context, found, head, key);
    if (entry === undefined) continue;
    report.entries++;
    context.given?.add(text);
    yield entry;
  }
}

/** Is it known what stands at this place of the log? */
function isKnown(log: ReadLog, place: number, tail: number | undefined): boolean {
  const end = log.ends.get(place >>> EXTENT_UNIT_SHIFT);
  if (end === undefined || log.damages.some((damage) => damage.place > (place & ~EXTENT_UNIT_MASK))) return false;
  return place < end || (tail !== undefined && place >= tail && log.end === tail);
}

function placeOf({ extent, record }: LogRecord, segment: number, key: Buffer): Omit<Problem, 'code' | 'message'> {
  return { key: nameOf(key), extent, offset: record * 4, address: extent * EXTENT_SIZE + record * 4, segment };
}

function nameOf(key: Buffer): string {
  return isUtf8(key) ? key.toString() : key.toString('latin1');
}

function hashOf(key: Buffer, seed: number): number {
  const words = new Int32Array((key.length + 3) >>> 2);
  new Uint8Array(words.buffer).set(key);
  return xxh32Words(words, key.length, seed);
}

/** What is left where no head's checksum holds: logs whose head is damaged or gone. */
function* remains(context: Context, cover: Cover, chosen: ReadonlySet<number>): Generator<SalvagedEntry> {
  const { file, report, scan } = context;
  const areas = cover.uncovered({ prefix: 0, depth: 0 });
  if (areas.length === 0) return;
  const share = areas.reduce((sum, { depth }) => sum + 2 ** -depth, 0);
  report.add('SEGMENT', `the segments for ${(100 * share).toPrecision(3)} % of all keys are lost, but for what is left of their logs`, {});
  context.given ??= new Set();
  const damaged = new Set(scan.damaged);
  const heads = new Set([...scan.damaged, ...[...scan.logs.keys()].filter((head) => !scan.sound.has(head))]);
  for (const head of [...heads].sort((a, b) => a - b)) {
    if (chosen.has(head)) continue;
    const words = file.extent(head);
    if (damaged.has(head)) report.add('SEGMENT', 'the header of a segment is damaged', { extent: head });
    // One that names another head is a copy of that one: neither its tail nor its index says anything here.
    if (damaged.has(head) && words !== undefined && words[X_SEGMENT_WORD] === head) {
      const parts = logParts(context, head, logStart(words));
      yield* logEntries(context, head, parts, readSlots(file, head), words[S_TAIL_WORD]!, areas);
      continue;
    }
    const parts = new Map<number, number>();
    // Of two that say the same nobody knows which one it is.
    for (const { ordinal, extent } of scan.logs.get(head) ?? []) parts.set(ordinal, parts.has(ordinal) ? 0 : extent);
    const list: LogPart[] = [];
    for (let ordinal = 0; ordinal <= Math.max(...parts.keys()); ordinal++)
      list.push({ ordinal, extent: parts.get(ordinal) ?? 0, start: EXTENT_HEADER_UNITS });
    yield* logEntries(context, 0, list, looseSlots(file, scan.indexes.get(head) ?? []), -1, areas);
  }
}

// ---- Values ----------------------------------------------------------------------------------------------------------

function readEntry({ file, report }: Context, found: LogRecord, head: number, key: Buffer): SalvagedEntry | undefined {
  const words = file.extent(found.extent)!;
  const { record } = found;
  const expiry = expiryOf(words, record);
  if (expiry <= Date.now()) {
    report.expired++;
    return undefined;
  }
  const type = words[record + K_TYPE_WORD]!;
  const place = () => placeOf(found, head, key);
  const payload = payloadIndex(words, record);
  const size = payloadSizeOf(words, record);
  let bytes: Buffer;
  if ((type & FLAG_LARGE) !== 0) {
    const large = readLarge(file, words, payload, size);
    if (typeof large === 'string') {
      report.add('VALUE', large, place());
      return undefined;
    }
    bytes = large;
  } else {
    bytes = Buffer.from(words.slice(payload, payload + ((size + 3) >>> 2)).buffer, 0, size);
  }
  const value = decodeBytes(type & TYPE_MASK, bytes);
  if (value instanceof DecodeError) {
    report.add('VALUE', `a value cannot be read: ${value.message}`, place());
    return undefined;
  }
  return { key, value, expiresAt: expiry === Number.POSITIVE_INFINITY ? undefined : expiry, stored: bytes };
}
