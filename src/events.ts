/**
 * Changes, for those who watch: a ring of events in the control file that every writer appends to, and every watcher
 * reads at a place of its own. Nobody waits for a watcher, and nobody for a writer that is stopped or dead.
 *
 * A write tells of itself only if somebody watches: one word says so, which changes when the first watcher comes and when
 * the last one goes. It appends its event under the segment's lock, behind the store that commits it: so the events of
 * a key come in order, and who reads the value after its event finds that value or a later one.
 *
 * Steps of append(), which takes no lock:
 *   1. ticket: add to the count of tickets. The slot is ticket mod EVENT_COUNT, the lap what is left;
 *   2. claim the slot: from "done" in an earlier lap to "claimed" in this one, by compare-and-exchange. If somebody of an
 *      earlier lap has it still (stopped, or dead), or somebody of a later lap has it by now, the event is dropped;
 *   3. type and key; 4. publish: "done" in this lap. A long key takes as many slots as it needs, the first published last.
 * So the content of a slot changes only between claim and publication, and only by the one who claimed it.
 *
 * A reader at ticket t takes the content of t's slot if it is done in t's lap, and tickets are still less than a lap
 * ahead afterwards: then nobody can have claimed it anew. If they are further ahead it has missed something, and goes
 * on at the end. A slot that is not done although its ticket is taken has been dropped, or is about to be filled: after
 * a while it counts as missed. Whatever goes wrong in the ring, somebody is told "missed", never nothing.
 *
 * A writer that dies or is cut off between its commit and its event holds the segment's lock: whoever repairs the
 * segment appends EVENT_MISSED. Clean-up after an owner frees the slots that it had claimed.
 */
import { failpoint } from './failpoints.js';
import {
  C_EVENTS_WORD,
  C_SLEEPERS_WORD,
  C_WATCHED_WORD,
  EVENT_CLEAR,
  EVENT_COUNT,
  EVENT_DELETE,
  EVENT_DONE_BIT,
  EVENT_KEY_SIZE_SHIFT,
  EVENT_LAP_SHIFT,
  EVENT_MISSED,
  EVENT_REST,
  EVENT_SET,
  EVENT_SIZE,
  EVENT_TYPE_MASK,
  EVENTS_OFFSET,
  MAX_KEY_SIZE,
  O_CLEARING_WORD,
  O_STATE_WORD,
  O_WATCHING_WORD,
  OWNER_SLOT_MASK,
  OWNER_WORDS,
  OWNERS_WORD,
  V_KEY_WORD,
  V_KEY_WORDS,
  V_STATE_WORD,
  V_TYPE_WORD,
} from './layout.js';
import { NEEDS_FENCE, native } from './native.js';
import { lastSlot } from './owners.js';
import type { Session } from './session.js';

const RING_WORD = EVENTS_OFFSET / 4;
const SLOT_WORDS = EVENT_SIZE / 4;
const LAP_MASK = 2 ** (32 - EVENT_LAP_SHIFT) - 1;
/** Tries to claim a slot: in each of them its state changed. */
const ROUNDS = 100;
const WATCHED = 1;
const ONE = 1n;

function slotWord(ticket: number): number {
  return RING_WORD + (ticket & (EVENT_COUNT - 1)) * SLOT_WORDS;
}

/** The state of a slot that is claimed by owner slot 0 in the lap of this ticket; laps are compared by 20 bits of them. */
function lapState(ticket: number): number {
  return (Math.floor(ticket / EVENT_COUNT) & LAP_MASK) << EVENT_LAP_SHIFT;
}

/** Is the state of this ticket's lap, or of one behind it? */
function isPast(state: number, lap: number): boolean {
  return state !== 0 && (state - lap) >> EVENT_LAP_SHIFT >= 0;
}

function ticketsOf(session: Session): BigInt64Array {
  const { fixed } = session.memory;
  session.eventTickets ??= new BigInt64Array(fixed.buffer as ArrayBuffer, C_EVENTS_WORD * 4, 1);
  return session.eventTickets;
}

/** Does anybody watch? Caller holds the lock of the segment that it has changed: so it needs no Atomics. */
export function isWatched(session: Session): boolean {
  return (session.memory.fixed[C_WATCHED_WORD]! & WATCHED) !== 0;
}

// ---- Writers ---------------------------------------------------------------------------------------------------------

/** Appends an event for the key at words[from], which is padded with zeros. The change that it tells of is visible already. */
export function appendEvent(session: Session, type: number, words: Int32Array, from: number, keySize: number): void {
  const { fixed } = session.memory;
  const keyCount = (keySize + 3) >>> 2;
  const count = keyCount <= V_KEY_WORDS ? 1 : Math.ceil(keyCount / V_KEY_WORDS);
  const slot = session.owner & OWNER_SLOT_MASK;
  session.isAppending = true;
  session.hasEvents = true;
  const ticket = Number(Atomics.add(ticketsOf(session), 0, count === 1 ? ONE : BigInt(count)));
  if (failpoint !== null) failpoint('event.ticket');
  let dropped = count;
  for (let i = 0; i < count; i++) {
    if (!claim(fixed, ticket + i, slot)) dropped = Math.min(dropped, i);
    // Of an event that is dropped no slot stays claimed.
    else if (dropped < count) publishSlot(fixed, ticket + i, slot, EVENT_MISSED);
    if (failpoint !== null) failpoint('event.claimed');
  }
  if (dropped < count) {
    for (let i = 0; i < dropped; i++) publishSlot(fixed, ticket + i, slot, EVENT_MISSED);
    session.isAppending = false;
    return;
  }
  for (let i = 0, k = 0; i < count; i++) {
    const at = slotWord(ticket + i) + V_KEY_WORD;
    for (const end = Math.min(keyCount, k + V_KEY_WORDS), first = k; k < end; k++) fixed[at + k - first] = words[from + k]!;
  }
  if (failpoint !== null) failpoint('event.filled');
  for (let i = count - 1; i > 0; i--) publishSlot(fixed, ticket + i, slot, EVENT_REST);
  if (failpoint !== null && count > 1) failpoint('event.rest');
  publishSlot(fixed, ticket, slot, type | (keySize << EVENT_KEY_SIZE_SHIFT));
  session.isAppending = false;
  if (failpoint !== null) failpoint('event.done');
}

/** Changes were made of which nobody may have been told. */
export function appendMissed(session: Session): void {
  appendEvent(session, EVENT_MISSED, session.memory.fixed, 0, 0);
}

/** A lock is about to be let go of dirty. Its next holder may be long in coming: settle() tells those who watch. */
export function noteUntold(session: Session): void {
  if (!isWatched(session)) return;
  session.isUntold = true;
  session.interrupted = true;
}

function claim(fixed: Int32Array, ticket: number, slot: number): boolean {
  const word = slotWord(ticket) + V_STATE_WORD;
  const lap = lapState(ticket);
  for (let round = 0; round < ROUNDS; round++) {
    const state = Atomics.load(fixed, word);
    if (isPast(state, lap) || (state !== 0 && (state & EVENT_DONE_BIT) === 0)) return false;
    if (Atomics.compareExchange(fixed, word, state, lap | slot) === state) return true;
  }
  return false;
}

/** The slot is claimed by the caller, or by somebody dead. */
function publishSlot(fixed: Int32Array, ticket: number, slot: number, type: number): void {
  const word = slotWord(ticket);
  fixed[word + V_TYPE_WORD] = type;
  // Publish: pairs with the load of the state in Reader.
  Atomics.store(fixed, word + V_STATE_WORD, lapState(ticket) | EVENT_DONE_BIT | slot);
}

/** Wakes those who sleep until there is an event. Behind the lock: it is a system call. */
export function wakeWatchers(session: Session): void {
  const { fixed } = session.memory;
  session.hasEvents = false;
  // Before they sleep they make the word odd, then look at the ring: so either they see the event, or this sees the word.
  const word = Atomics.load(fixed, C_SLEEPERS_WORD);
  // If it is another by now, somebody has woken them since.
  if ((word & 1) === 0 || Atomics.compareExchange(fixed, C_SLEEPERS_WORD, word, (word + 1) | 0) !== word) return;
  if (failpoint !== null) failpoint('event.waking');
  native.futexWake(fixed.buffer as ArrayBuffer, C_SLEEPERS_WORD * 4, 0x7fffffff);
}

/** Says that somebody is about to sleep. Returns what the word of the sleepers holds until the next wake. */
export function announceSleeper(session: Session): number {
  const { fixed } = session.memory;
  for (;;) {
    const word = Atomics.load(fixed, C_SLEEPERS_WORD);
    if ((word & 1) !== 0) return word;
    if (Atomics.compareExchange(fixed, C_SLEEPERS_WORD, word, (word + 1) | 0) === word) return (word + 1) | 0;
  }
}

/** clear() is under way: should it never end, those who watch are told "missed". */
export function beginClear(session: Session): void {
  Atomics.store(session.memory.fixed, ownerWord(session.owner & OWNER_SLOT_MASK) + O_CLEARING_WORD, 1);
}

export function endClear(session: Session): void {
  const { fixed } = session.memory;
  if ((Atomics.load(fixed, C_WATCHED_WORD) & WATCHED) !== 0) appendEvent(session, EVENT_CLEAR, fixed, 0, 0);
  if (failpoint !== null) failpoint('event.cleared');
  Atomics.store(fixed, ownerWord(session.owner & OWNER_SLOT_MASK) + O_CLEARING_WORD, 0);
}

// ---- Watchers come and go --------------------------------------------------------------------------------------------

function ownerWord(slot: number): number {
  return OWNERS_WORD + slot * OWNER_WORDS;
}

/** From here on every write that begins is appended, whoever makes it. */
export function registerWatcher(session: Session): void {
  const { fixed } = session.memory;
  Atomics.store(fixed, ownerWord(session.owner & OWNER_SLOT_MASK) + O_WATCHING_WORD, 1);
  if (failpoint !== null) failpoint('watch.named');
  for (;;) {
    const word = Atomics.load(fixed, C_WATCHED_WORD);
    // Another version each time: who is about to say that nobody watches finds out.
    if (Atomics.compareExchange(fixed, C_WATCHED_WORD, word, ((word & ~WATCHED) + 2) | WATCHED) === word) return;
  }
}

/** This open (or, for its clean-up, the owner of the slot) has no watchers any more. */
export function unregisterWatcher(session: Session, slot = session.owner & OWNER_SLOT_MASK): void {
  const { fixed } = session.memory;
  Atomics.store(fixed, ownerWord(slot) + O_WATCHING_WORD, 0);
  if (failpoint !== null) failpoint('watch.unnamed');
  const word = Atomics.load(fixed, C_WATCHED_WORD);
  if ((word & WATCHED) === 0) return;
  for (let other = lastSlot(fixed); other > 0; other--) {
    const at = ownerWord(other);
    if ((Atomics.load(fixed, at + O_STATE_WORD) & 1) !== 0 && Atomics.load(fixed, at + O_WATCHING_WORD) !== 0) return;
  }
  Atomics.compareExchange(fixed, C_WATCHED_WORD, word, word & ~WATCHED);
}

/** Puts in order what the owner of the slot left: it is dead, or (if it is this open) a call of it was cut off. */
export function cleanEvents(session: Session, slot: number): void {
  const { fixed } = session.memory;
  for (let i = 0; i < EVENT_COUNT; i++) {
    const word = RING_WORD + i * SLOT_WORDS;
    const state = Atomics.load(fixed, word + V_STATE_WORD);
    if ((state & (EVENT_DONE_BIT | OWNER_SLOT_MASK)) !== slot) continue;
    fixed[word + V_TYPE_WORD] = EVENT_MISSED;
    Atomics.store(fixed, word + V_STATE_WORD, state | EVENT_DONE_BIT);
    session.hasEvents = true;
  }
  const isOwn = slot === (session.owner & OWNER_SLOT_MASK);
  const clearing = ownerWord(slot) + O_CLEARING_WORD;
  if (Atomics.load(fixed, clearing) !== 0) {
    if (isWatched(session)) appendMissed(session);
    Atomics.store(fixed, clearing, 0);
  }
  if (isOwn) {
    if (session.isUntold && isWatched(session)) appendMissed(session);
    session.isUntold = false;
    session.isAppending = false;
  } else {
    unregisterWatcher(session, slot);
  }
  if (session.hasEvents) wakeWatchers(session);
}

// ---- Readers ---------------------------------------------------------------------------------------------------------

/** What Reader.next() answers beside EVENT_SET, EVENT_DELETE, EVENT_CLEAR and EVENT_MISSED. */
export const NOTHING = 0;
/** It has passed over many events that nobody wants: others may have a turn first. */
export const LATER = -1;

/** ms after which a ticket that was taken counts as dropped. */
const PATIENCE = 200;
/** Events that one call passes over at most. */
const MOST = 2 * EVENT_COUNT;

/** Of the last event that a Reader answered: the key. Until the next call of any Reader. */
export const eventKey = Buffer.alloc(MAX_KEY_SIZE + V_KEY_WORDS * 4);
const eventKeyWords = new Int32Array(eventKey.buffer, eventKey.byteOffset, eventKey.length / 4);
export let eventKeySize = 0;

/** A place in the ring. It begins at the end: with what is appended from now on. */
export class Reader {
  readonly #session: Session;
  readonly #wants: (key: Buffer, size: number) => boolean;
  /** Ticket of the next event. */
  #at: number;
  /** Tickets below this one were taken `PATIENCE` ms before #until. */
  #taken = -1;
  #until = 0;
  /** Slots that somebody has kept claimed for a lap and longer, with their state: there is no waiting for them again. */
  readonly #stuck = new Map<number, number>();

  constructor(session: Session, wants: (key: Buffer, size: number) => boolean) {
    this.#session = session;
    this.#wants = wants;
    this.#at = this.#tickets();
  }

  #tickets(): number {
    return Number(Atomics.load(ticketsOf(this.#session), 0));
  }

  /** performance.now() at which to look again, though nobody wakes; Infinity: there is no need to. */
  get deadline(): number {
    return this.#at < this.#taken ? this.#until : Number.POSITIVE_INFINITY;
  }

  /** The type of the next event that is wanted, or NOTHING, or LATER. */
  next(): number {
    const { fixed } = this.#session.memory;
    let missed = false;
    for (let passed = 0; passed < MOST; passed++) {
      const tickets = this.#tickets();
      if (tickets - this.#at > EVENT_COUNT) {
        this.#at = tickets;
        missed = true;
        continue;
      }
      if (tickets === this.#at) return missed ? EVENT_MISSED : NOTHING;
      const word = slotWord(this.#at);
      const state = Atomics.load(fixed, word + V_STATE_WORD);
      if ((state & ~OWNER_SLOT_MASK) !== (lapState(this.#at) | EVENT_DONE_BIT)) {
        if (this.#isHole(state, tickets)) {
          this.#at++;
          missed = true;
          continue;
        }
        return missed ? EVENT_MISSED : NOTHING;
      }
      const head = fixed[word + V_TYPE_WORD]!;
      const type = head & EVENT_TYPE_MASK;
      const size = head >>> EVENT_KEY_SIZE_SHIFT;
      const count = size > MAX_KEY_SIZE ? 0 : this.#copy(fixed, size);
      if (NEEDS_FENCE) native.fence();
      if (this.#tickets() - this.#at > EVENT_COUNT) continue;
      if (count > 0 && (type === EVENT_CLEAR || type === EVENT_SET || type === EVENT_DELETE)) {
        if (type === EVENT_CLEAR || this.#wants(eventKey, size)) {
          // What was missed comes first: this one once more after it.
          if (missed) return EVENT_MISSED;
          this.#at += count;
          eventKeySize = size;
          return type;
        }
        this.#at += count;
      } else {
        missed ||= type !== EVENT_REST;
        this.#at++;
      }
    }
    return missed ? EVENT_MISSED : LATER;
  }

  /** Copies the key to eventKey; returns how many slots it took. Counts only after validation. */
  #copy(fixed: Int32Array, size: number): number {
    const keyCount = (size + 3) >>> 2;
    let slots = 0;
    let k = 0;
    do {
      const at = slotWord(this.#at + slots++) + V_KEY_WORD;
      for (const end = Math.min(keyCount, k + V_KEY_WORDS), first = k; k < end; k++) eventKeyWords[k] = fixed[at + k - first]!;
    } while (k < keyCount);
    return slots;
  }

  /** The slot of the next event is not done: will it never be? */
  #isHole(state: number, tickets: number): boolean {
    const slot = this.#at & (EVENT_COUNT - 1);
    if (this.#stuck.size > 0 && this.#stuck.get(slot) === state) return true;
    const now = performance.now();
    if (this.#at >= this.#taken) {
      this.#taken = tickets;
      this.#until = now + PATIENCE;
      return false;
    }
    if (now < this.#until) return false;
    if (state !== 0 && (state & EVENT_DONE_BIT) === 0) this.#stuck.set(slot, state);
    else this.#stuck.delete(slot);
    return true;
  }
}
