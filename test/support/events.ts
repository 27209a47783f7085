/** What the control file says of watchers and events, as docs/format.md has it. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { expect } from 'vitest';
import {
  C_EVENTS_WORD,
  C_SLEEPERS_WORD,
  C_WATCHED_WORD,
  EVENT_COUNT,
  EVENT_DONE_BIT,
  EVENT_SIZE,
  EVENTS_OFFSET,
  O_CLEARING_WORD,
  O_STATE_WORD,
  O_WATCHING_WORD,
  OWNER_COUNT,
  OWNER_WORDS,
  OWNERS_OFFSET,
} from '../../dist/layout.js';

export interface EventFacts {
  isWatched: boolean;
  /** Owner slots of those who watch. */
  watching: number[];
  clearing: number[];
  tickets: number;
  /** Slots of the ring that somebody has claimed and not filled. */
  claimed: number[];
}

export function eventFacts(path: string): EventFacts {
  const bytes = readFileSync(`${path}.lock`);
  const watching: number[] = [];
  const clearing: number[] = [];
  for (let slot = 1; slot <= OWNER_COUNT; slot++) {
    const at = OWNERS_OFFSET + slot * OWNER_WORDS * 4;
    if ((bytes.readInt32LE(at + O_STATE_WORD * 4) & 1) === 0) continue;
    if (bytes.readInt32LE(at + O_WATCHING_WORD * 4) !== 0) watching.push(slot);
    if (bytes.readInt32LE(at + O_CLEARING_WORD * 4) !== 0) clearing.push(slot);
  }
  const claimed: number[] = [];
  for (let slot = 0; slot < EVENT_COUNT; slot++) {
    const state = bytes.readInt32LE(EVENTS_OFFSET + slot * EVENT_SIZE);
    if (state !== 0 && (state & EVENT_DONE_BIT) === 0) claimed.push(slot);
  }
  return {
    isWatched: (bytes.readInt32LE(C_WATCHED_WORD * 4) & 1) !== 0,
    watching,
    clearing,
    tickets: Number(bytes.readBigInt64LE(C_EVENTS_WORD * 4)),
    claimed,
  };
}

/** Is somebody asleep until there is an event, and to be woken? */
export function isAwaited(path: string): boolean {
  return (readFileSync(`${path}.lock`).readInt32LE(C_SLEEPERS_WORD * 4) & 1) !== 0;
}

/** Nobody watches, and nothing of what was appended is under way. */
export const quiet = { isWatched: false, watching: [], clearing: [], claimed: [], tickets: expect.any(Number) };

/** Writes into the control file of a store in use: the mappings show it at once. */
export function pokeControl(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(`${path}.lock`, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}
