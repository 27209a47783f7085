/** What a check finds: its problems, and which extents something refers to. */
import { StoreError } from './errors.js';
import { EXTENT_SIZE, X_BIRTH_WORD } from './layout.js';
import { extentBase, extentWords } from './memory.js';
import type { Session } from './session.js';

/** What can be wrong. */
export type ProblemCode =
  | 'HEADER'
  | 'DIRECTORY'
  | 'SEGMENT'
  | 'INDEX'
  | 'LOG'
  | 'RECORD'
  | 'VALUE'
  | 'COUNT'
  | 'FREE_LIST'
  | 'LEAK'
  | 'UNREADABLE';

export interface Problem {
  code: ProblemCode;
  message: string;
  /** The key it concerns, as text. */
  key?: string;
  /** The extent where it is. */
  extent?: number;
  /** Byte within the extent. */
  offset?: number;
  /** Byte in the data file. */
  address?: number;
  /** Head extent of the segment that it is part of. */
  segment?: number;
}

export type Place = Omit<Problem, 'code' | 'message'>;

/** A byte of an extent, as a place. */
export function placeIn(extent: number, offset: number): { extent: number; offset: number; address: number } {
  return { extent, offset, address: extent * EXTENT_SIZE + offset };
}

export interface CheckReport {
  ok: boolean;
  /** Entries that were found in order. */
  entries: number;
  segments: number;
  problems: Problem[];
  /** Problems beyond the first 1,000, which are counted only. */
  omitted: number;
}

const MOST_PROBLEMS = 1000;

export class Report implements CheckReport {
  entries = 0;
  segments = 0;
  problems: Problem[] = [];
  omitted = 0;
  get ok(): boolean {
    return this.problems.length === 0;
  }
  add(code: ProblemCode, message: string, place: Place = {}): void {
    if (this.problems.length < MOST_PROBLEMS) this.problems.push({ code, message, ...place });
    else this.omitted++;
  }
}

export function addFailure(report: Report, code: ProblemCode, error: unknown, place: Place): void {
  if (error instanceof StoreError && error.code !== 'ERR_STORE_CORRUPT') throw error;
  report.add(code, (error as Error).message, place);
}

/**
 * Extents that a segment, a value or the directory refers to, with their births: while others write, an extent may be
 * given up by one thing after that was looked at, and be another's, born anew, when that one's turn comes.
 */
export class References extends Map<number, number> {
  /** What was seen before; this is what is being looked at, and may have to be looked at again. */
  readonly before: References | undefined;
  constructor(before?: References) {
    super();
    this.before = before;
  }
}

/** False: something else that was seen refers to the same extent. */
export function refer(session: Session, referred: References, extent: number): boolean {
  const birth = extentWords(session.memory, extent)[extentBase(extent) + X_BIRTH_WORD]!;
  if (referred.get(extent) === birth || referred.before?.get(extent) === birth) return false;
  referred.set(extent, birth);
  return true;
}
