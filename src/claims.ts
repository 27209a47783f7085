/**
 * Claims: which open computes the value of which key for all the others. No lock guards them: a stopped process must
 * not hold up those who compute something else.
 *
 *   state of a claim = free (only its ticket), or {identity of the key, owner slot, confirmed?, ticket}
 *
 * A state is one word of 64 bits, and every change of it is a compare-and-exchange of the whole. Its ticket rises
 * whenever somebody takes the place, so that a state never comes back: who saw one knows that it has ended, died or
 * been taken over as soon as the place holds anything else.
 *
 * Steps of claim():
 *   1. look at all places that a claim of the identity may have; a confirmed one: wait for it, or take it over if its
 *      owner is dead or past its deadline;
 *   2. take a free place, unconfirmed;
 *   3. look at all places again: a confirmed one of the same identity: withdraw; an unconfirmed one: free it;
 *   4. confirm, which fails when somebody else did step 3 to this one: start again.
 * At most one is confirmed: of two that both took a place, the later one to do so meets the other in its step 3, and
 * either withdraws or makes the other's step 4 fail. A place that is taken over is never free in between.
 *
 * A computation that ends frees its place, after its failure, if it failed, was noted in the ring of failures under its
 * state. Then the count of computations goes up, on which all who wait sleep.
 *
 * Two keys with the same identity (a hash of 32 bits) wait for each other, and no more.
 */
import { failpoint } from './failpoints.js';
import {
  C_COMPUTED_WORD,
  C_FAILED_WORD,
  CLAIM_CONFIRMED_BIT,
  CLAIM_COUNT,
  CLAIM_DEADLINE_OF_WORD,
  CLAIM_SIZE,
  CLAIM_TICKET_SHIFT,
  CLAIM_WINDOW,
  CLAIMS_OFFSET,
  F_CLAIM_WORD,
  F_SIZE_WORD,
  F_STATE_WORD,
  F_TEXT_WORD,
  FAILURE_COUNT,
  FAILURE_SIZE,
  FAILURES_OFFSET,
  OWNER_SLOT_MASK,
} from './layout.js';
import { monotonic } from './monotonic.js';
import { native } from './native.js';
import { isSlotAlive } from './owners.js';
import type { Session } from './session.js';

/** A confirmed state, and where it stands. */
export interface Claim {
  place: number;
  state: bigint;
}

/** Tries of claim() before it goes without: in each of them another one was faster. */
const ROUNDS = 1000;
const LOW = 0xffffffffn;
const TICKETS = 2 ** (32 - CLAIM_TICKET_SHIFT) - 1;
const STATE_STRIDE = CLAIM_SIZE / 8;
const DEADLINE = CLAIM_DEADLINE_OF_WORD / 2;
const FAILURE_TEXT_SIZE = FAILURE_SIZE - F_TEXT_WORD * 4;

function slotIn(state: bigint): number {
  return Number(state & LOW) & OWNER_SLOT_MASK;
}

function ticketIn(state: bigint): number {
  return Number(state & LOW) >>> CLAIM_TICKET_SHIFT;
}

function stateOf(identity: number, low: number): bigint {
  return (BigInt(identity >>> 0) << 32n) | BigInt(low >>> 0);
}

function identityIn(state: bigint): number {
  return Number(state >> 32n) | 0;
}

function isConfirmed(state: bigint): boolean {
  return (Number(state & LOW) & CLAIM_CONFIRMED_BIT) !== 0;
}

function freed(state: bigint): bigint {
  return stateOf(0, ticketIn(state) << CLAIM_TICKET_SHIFT);
}

/** What the place holds when this slot takes it, unconfirmed. */
function taken(state: bigint, identity: number, slot: number): bigint {
  return stateOf(identity, (((ticketIn(state) + 1) & TICKETS) << CLAIM_TICKET_SHIFT) | slot);
}

export class Claims {
  readonly #session: Session;
  readonly #words: BigUint64Array;
  readonly #slot: number;
  /** Own claims by place: any other of this slot was left by an interrupted call. */
  readonly #own = new Map<number, bigint>();

  constructor(session: Session) {
    this.#session = session;
    this.#slot = session.owner & OWNER_SLOT_MASK;
    this.#words = claimWords(session);
  }

  /**
   * The claim for this identity: a new one of this open (then `isOwn`), or that of whoever computes now. Undefined: all
   * its places are taken by others.
   */
  claim(identity: number, timeout: number): { claim: Claim; isOwn: boolean } | undefined {
    for (let round = 0; round < ROUNDS; round++) {
      const held = this.#find(identity, -1);
      if (held !== undefined) {
        if (!this.isOver(held, timeout)) return { claim: held, isOwn: false };
        const state = taken(held.state, identity, this.#slot);
        if (!this.#exchange(held.place, held.state, state)) continue;
        if (failpoint !== null) failpoint('compute.claimed');
        const claim = this.#confirm(held.place, state, timeout);
        if (claim !== undefined) return { claim, isOwn: true };
        continue;
      }
      const place = this.#freePlace(identity);
      if (place < 0) return undefined;
      const found = this.#load(place);
      const state = taken(found, identity, this.#slot);
      if (slotIn(found) !== 0 || !this.#exchange(place, found, state)) continue;
      if (failpoint !== null) failpoint('compute.claimed');
      if (this.#find(identity, place) !== undefined) {
        this.#exchange(place, state, freed(state));
        continue;
      }
      const claim = this.#confirm(place, state, timeout);
      if (claim !== undefined) return { claim, isOwn: true };
    }
    return undefined;
  }

  /** Is this open's claim still its own? */
  isHeld({ place, state }: Claim): boolean {
    return this.#load(place) === state;
  }

  /** Has this open the claim for another key with the same identity? Then it would wait for itself. */
  isOwn({ place, state }: Claim): boolean {
    return this.#own.get(place) === state;
  }

  /** Is there nothing to wait for any more: has it ended, or died, or has its deadline passed? */
  isOver({ place, state }: Claim, timeout: number): boolean {
    if (this.#load(place) !== state) return true;
    const slot = slotIn(state);
    if (slot === this.#slot ? this.#own.get(place) !== state : !isSlotAlive(this.#session, slot)) return true;
    const index = place * STATE_STRIDE + DEADLINE;
    const deadline = Atomics.load(this.#words, index);
    if ((deadline & LOW) === (state & LOW)) return ((monotonic() - Number(deadline >> 32n)) | 0) >= 0;
    // Somebody whose own claim was seen off has written there late: the deadline begins anew.
    Atomics.compareExchange(this.#words, index, deadline, stateOf(monotonic() + timeout, Number(state & LOW)));
    return false;
  }

  /** Ends an own claim; with a text, as a failure of which those who wait learn. */
  end(claim: Claim, failure?: string): void {
    const { place, state } = claim;
    if (this.#own.get(place) === state) this.#own.delete(place);
    if (failure !== undefined && this.isHeld(claim)) this.#recordFailure(claim, failure);
    if (this.#exchange(place, state, freed(state))) wake(this.#session);
  }

  /** Ends all claims of this open but those with the given states: calls that were cut off have left them. */
  endOthers(states: ReadonlySet<bigint>): void {
    for (const [place, state] of this.#own) if (!states.has(state)) this.#own.delete(place);
    endClaimsOf(this.#session, this.#slot, states);
  }

  /** Ends all that is left of this open. */
  endAll(): void {
    this.#own.clear();
    endClaimsOf(this.#session, this.#slot);
  }

  /** The text of the failure with which the computation ended; undefined: it did not fail, or nobody knows any more. */
  failureOf({ place, state }: Claim): string | undefined {
    const { fixed } = this.#session.memory;
    for (let i = 0; i < FAILURE_COUNT; i++) {
      const at = (FAILURES_OFFSET + i * FAILURE_SIZE) / 4;
      if (!isFailureOf(fixed, at, place, state)) continue;
      const size = Math.min(fixed[at + F_SIZE_WORD]! >>> 0, FAILURE_TEXT_SIZE);
      const text = Buffer.from(fixed.buffer as ArrayBuffer, (at + F_TEXT_WORD) * 4, size).toString();
      if (isFailureOf(fixed, at, place, state)) return text;
    }
    return undefined;
  }

  #recordFailure({ place, state }: Claim, text: string): void {
    const { fixed } = this.#session.memory;
    const at = (FAILURES_OFFSET + (Atomics.add(fixed, C_FAILED_WORD, 1) & (FAILURE_COUNT - 1)) * FAILURE_SIZE) / 4;
    Atomics.store(fixed, at + F_CLAIM_WORD, 0);
    const target = Buffer.from(fixed.buffer as ArrayBuffer, (at + F_TEXT_WORD) * 4, FAILURE_TEXT_SIZE);
    fixed[at + F_SIZE_WORD] = target.write(text);
    fixed[at + F_STATE_WORD] = Number(state & LOW) | 0;
    fixed[at + F_STATE_WORD + 1] = identityIn(state);
    // Publish: pairs with the first load in isFailureOf().
    Atomics.store(fixed, at + F_CLAIM_WORD, place + 1);
  }

  #load(place: number): bigint {
    return Atomics.load(this.#words, place * STATE_STRIDE);
  }

  #exchange(place: number, from: bigint, to: bigint): boolean {
    return Atomics.compareExchange(this.#words, place * STATE_STRIDE, from, to) === from;
  }

  /** The confirmed claim of the identity. Frees the unconfirmed ones, but for the own one at `except`. */
  #find(identity: number, except: number): Claim | undefined {
    for (let i = 0; i < CLAIM_WINDOW; i++) {
      const place = placeAt(identity, i);
      if (place === except) continue;
      for (;;) {
        const state = this.#load(place);
        if (slotIn(state) === 0 || identityIn(state) !== identity) break;
        if (isConfirmed(state)) return { place, state };
        if (this.#exchange(place, state, freed(state))) break;
      }
    }
    return undefined;
  }

  /** A free place, be it that of a dead owner or of an own call that was interrupted; -1: none. */
  #freePlace(identity: number): number {
    for (let i = 0; i < CLAIM_WINDOW; i++) if (slotIn(this.#load(placeAt(identity, i))) === 0) return placeAt(identity, i);
    for (let i = 0; i < CLAIM_WINDOW; i++) {
      const place = placeAt(identity, i);
      const state = this.#load(place);
      const slot = slotIn(state);
      const isLeft = slot === this.#slot ? this.#own.get(place) !== state : !isSlotAlive(this.#session, slot);
      if (isLeft && this.#exchange(place, state, freed(state))) return place;
    }
    return -1;
  }

  #confirm(place: number, state: bigint, timeout: number): Claim | undefined {
    const confirmed = state | BigInt(CLAIM_CONFIRMED_BIT);
    Atomics.store(this.#words, place * STATE_STRIDE + DEADLINE, stateOf(monotonic() + timeout, Number(confirmed & LOW)));
    if (!this.#exchange(place, state, confirmed)) return undefined;
    this.#own.set(place, confirmed);
    if (failpoint !== null) failpoint('compute.confirmed');
    return { place, state: confirmed };
  }
}

function claimWords(session: Session): BigUint64Array {
  return new BigUint64Array(session.memory.fixed.buffer as ArrayBuffer, CLAIMS_OFFSET, (CLAIM_COUNT * CLAIM_SIZE) / 8);
}

function placeAt(identity: number, i: number): number {
  return (identity + i) & (CLAIM_COUNT - 1);
}

function isFailureOf(fixed: Int32Array, at: number, place: number, state: bigint): boolean {
  return (
    Atomics.load(fixed, at + F_CLAIM_WORD) === place + 1 &&
    Atomics.load(fixed, at + F_STATE_WORD) === (Number(state & LOW) | 0) &&
    Atomics.load(fixed, at + F_STATE_WORD + 1) === identityIn(state)
  );
}

function wake(session: Session): void {
  const { fixed } = session.memory;
  Atomics.add(fixed, C_COMPUTED_WORD, 1);
  native.futexWake(fixed.buffer as ArrayBuffer, C_COMPUTED_WORD * 4, 0x7fffffff);
}

/** Frees every claim of the slot, but those to be kept; else its owner is dead or about to leave. The others compute instead. */
export function endClaimsOf(session: Session, slot: number, kept?: ReadonlySet<bigint>): void {
  const words = claimWords(session);
  let count = 0;
  for (let i = 0; i < words.length; i += STATE_STRIDE) {
    const state = Atomics.load(words, i);
    if (slotIn(state) !== slot || kept?.has(state)) continue;
    if (Atomics.compareExchange(words, i, state, freed(state)) === state) count++;
  }
  if (count > 0) wake(session);
}
