/**
 * watch(): the watchers of one open, each an async iterator with a place of its own in the ring of events (events.ts).
 * Nothing is kept for a watcher that is slow: it reads when it is asked, and finds what is still there.
 *
 * While some of them are asked and have nothing to answer, one thread of the addon sleeps for all of them, on the word of
 * the sleepers: not one of libuv's few, which files and names are waited for with. It keeps the process alive as long as
 * somebody awaits next(), as a server does that listens.
 *
 * Before the thread sleeps: (1) say so, in the word of the sleepers; (2) note the count of tickets; (3) look at the ring
 * for everybody who waits; (4) sleep, unless the word is another by now. A writer that publishes after 3 finds the word of
 * 1, or one that somebody has woken since: it never holds the same value twice, so no wake between 1 and 4 is lost. Should
 * who found it be killed before it wakes, the count is another, at which the thread looks now and then.
 *
 * A call of next() may be cut off anywhere (a vm timeout, a full stack): nobody has its promise then, and an event may have
 * been taken from the ring for nobody. The next call finds out, drops the request, and the watcher is told "missed".
 */
import { closedError, iterationOf, readOnlyError } from './arguments.js';
import { decodeKey, encodeKey, keyBytes } from './codec.js';
import { fromSystemError } from './errors.js';
import { announceSleeper, eventKey, eventKeySize, LATER, NOTHING, Reader, registerWatcher, unregisterWatcher } from './events.js';
import { C_EVENTS_WORD, C_SLEEPERS_WORD, EVENT_CLEAR, EVENT_DELETE, EVENT_MISSED, EVENT_SET } from './layout.js';
import { native } from './native.js';
import type { Session } from './session.js';
import type { WatchEvent, Watcher, WatchOptions } from './types.js';

type Key = string | Buffer;
type Result = IteratorResult<WatchEvent<Key>, undefined>;

interface Request {
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/** After so many calls of next() others of this thread get a turn, though there is more to answer. */
const TURN = 256;

function done(): Result {
  return { done: true, value: undefined };
}

interface Wanted {
  wants: (key: Buffer, size: number) => boolean;
  as: 'string' | 'buffer';
}

/** Checks the options of watch(). */
function wantedBy(options: WatchOptions | undefined): Wanted {
  const { prefix, as } = iterationOf(options);
  const key = options?.key;
  if (key === undefined) {
    if (prefix === undefined) return { wants: () => true, as };
    return { wants: (found, size) => size >= prefix.length && found.compare(prefix, 0, prefix.length, 0, prefix.length) === 0, as };
  }
  if (prefix !== undefined) throw new TypeError('watch takes a prefix or a key, not both');
  const keySize = encodeKey(key);
  const own = Buffer.from(keyBytes.subarray(0, keySize));
  return { wants: (found, size) => size === keySize && found.compare(own, 0, keySize, 0, keySize) === 0, as };
}

/** That somebody watches, until it is ended: by the iterator, or because nobody has the iterator any more. */
class Registration {
  #end: (() => void) | undefined;

  constructor(end: () => void) {
    this.#end = end;
  }

  end(): void {
    const end = this.#end;
    this.#end = undefined;
    end?.();
  }
}

const abandoned = new FinalizationRegistry<Registration>((registration) => registration.end());

export class Watchers {
  readonly #session: Session;
  /** Those that were asked and have nothing to answer. */
  readonly #waiting = new Set<EventIterator>();
  readonly #registrations = new Set<Registration>();
  #sleeper = 0;
  #isArmed = false;
  #isHeld = false;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(session: Session) {
    if (session.readOnly) throw readOnlyError(session.path, 'to watch: whoever watches says so in the control file');
    this.#session = session;
  }

  watch(options: WatchOptions | undefined): Watcher<Key> {
    // Getters of the options may close the store.
    const { wants, as } = wantedBy(options);
    if (this.#isClosed) throw closedError(this.#session.path);
    const registration = new Registration(() => this.#leave(registration));
    this.#registrations.add(registration);
    registerWatcher(this.#session);
    const iterator = new EventIterator(this, registration, new Reader(this.#session, wants), as);
    abandoned.register(iterator, registration, registration);
    return iterator;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Ends all of them. */
  close(): void {
    this.#isClosed = true;
    for (const iterator of this.#waiting) iterator.end();
    for (const registration of [...this.#registrations]) registration.end();
  }

  #leave(registration: Registration): void {
    abandoned.unregister(registration);
    this.#registrations.delete(registration);
    if (this.#registrations.size > 0) return;
    clearTimeout(this.#timer);
    if (this.#sleeper !== 0) native.stopSleeper(this.#sleeper);
    this.#sleeper = 0;
    this.#isArmed = false;
    this.#isHeld = false;
    unregisterWatcher(this.#session);
  }

  /** The iterator was asked and has nothing to answer. */
  wait(iterator: EventIterator): void {
    this.#waiting.add(iterator);
    // If the thread sleeps already, whatever comes from now on wakes it.
    if (this.#isArmed && iterator.deadline === Number.POSITIVE_INFINITY) this.#hold();
    else this.look();
  }

  leaveOut(iterator: EventIterator): void {
    if (this.#waiting.delete(iterator)) this.#hold();
  }

  /** Answers whom it can, and sleeps for the others. */
  look(): void {
    clearTimeout(this.#timer);
    if (this.#waiting.size === 0) return;
    try {
      const { memory } = this.#session;
      const { fixed } = memory;
      const expected = announceSleeper(this.#session);
      const seen = Atomics.load(fixed, C_EVENTS_WORD);
      let deadline = Number.POSITIVE_INFINITY;
      for (const iterator of this.#waiting) {
        if (iterator.answer()) this.#waiting.delete(iterator);
        else deadline = Math.min(deadline, iterator.deadline);
      }
      memory.checkFaults();
      if (this.#waiting.size > 0) this.#sleep(expected, seen, deadline);
      this.#hold();
    } catch (error) {
      // A full stack is the affair of whoever has called, not of the others who wait.
      if (error instanceof RangeError) throw error;
      this.#fail(fromSystemError(error, this.#session.path, 'waiting for events'));
    }
  }

  #sleep(expected: number, seen: number, deadline: number): void {
    const { fixed } = this.#session.memory;
    if (deadline !== Number.POSITIVE_INFINITY) {
      this.#timer = setTimeout(() => this.look(), Math.max(1, deadline - performance.now()));
      this.#timer.unref();
    }
    if (this.#isArmed) return;
    if (this.#sleeper === 0) {
      this.#sleeper = native.startSleeper(fixed.buffer as ArrayBuffer, C_SLEEPERS_WORD * 4, C_EVENTS_WORD * 4, () => {
        this.#isArmed = false;
        this.look();
      });
    }
    native.armSleeper(this.#sleeper, expected, seen);
    this.#isArmed = true;
  }

  #hold(): void {
    const holds = this.#waiting.size > 0;
    if (holds === this.#isHeld || this.#sleeper === 0) return;
    native.holdSleeper(this.#sleeper, holds);
    this.#isHeld = holds;
  }

  #fail(error: unknown): void {
    for (const iterator of [...this.#waiting]) iterator.fail(error);
  }
}

class EventIterator implements Watcher<Key> {
  readonly #watchers: Watchers;
  readonly #registration: Registration;
  readonly #reader: Reader;
  readonly #as: 'string' | 'buffer';
  /** Calls of next() that were not answered yet. */
  readonly #requests: Request[] = [];
  /** That of the call of next() which is under way. Still there at the next call: it was cut off. */
  #asked: Request | undefined;
  /** An event is being taken from the ring. Still set at the next one: that was cut off. */
  #isTaking = false;
  #hasMissed = false;
  #isServedLater = false;
  #calls = 0;
  #isEnded = false;

  constructor(watchers: Watchers, registration: Registration, reader: Reader, as: 'string' | 'buffer') {
    this.#watchers = watchers;
    this.#registration = registration;
    this.#reader = reader;
    this.#as = as;
  }

  next(): Promise<Result> {
    if (this.#isEnded || this.#watchers.isClosed) return Promise.resolve(done());
    if (this.#asked !== undefined) this.#forget(this.#asked);
    return new Promise((resolve, reject) => {
      const asked = { resolve, reject };
      this.#asked = asked;
      this.#requests.push(asked);
      if (!this.#isServedLater) this.#serve(++this.#calls % TURN === 0);
      this.#asked = undefined;
    });
  }

  /** The request of a call that was cut off: an event may have been its answer. */
  #forget(request: Request): void {
    this.#hasMissed = true;
    const at = this.#requests.indexOf(request);
    if (at >= 0) this.#requests.splice(at, 1);
    this.#asked = undefined;
  }

  #serve(isLater: boolean): void {
    if (isLater) {
      setImmediate(() => {
        this.#isServedLater = false;
        this.#serve(false);
      });
      this.#isServedLater = true;
    } else if (this.#watchers.isClosed) this.end();
    else if (!this.#isEnded && !this.answer()) this.#watchers.wait(this);
  }

  /** Answers what was asked, as far as it can; true: nothing is left to be answered, or others are to have a turn first. */
  answer(): boolean {
    while (this.#requests.length > 0) {
      if (this.#isTaking) this.#hasMissed = true;
      this.#isTaking = true;
      const type = this.#hasMissed ? EVENT_MISSED : this.#reader.next();
      if (type === NOTHING || type === LATER) {
        this.#isTaking = false;
        if (type === LATER) this.#serve(true);
        return type === LATER;
      }
      const value = this.#eventOf(type);
      this.#requests.shift()!.resolve({ done: false, value });
      this.#hasMissed = false;
      this.#isTaking = false;
    }
    return true;
  }

  #eventOf(type: number): WatchEvent<Key> {
    if (type === EVENT_SET) return { type: 'set', key: decodeKey(eventKey, 0, eventKeySize, this.#as) };
    if (type === EVENT_DELETE) return { type: 'delete', key: decodeKey(eventKey, 0, eventKeySize, this.#as) };
    return { type: type === EVENT_CLEAR ? 'clear' : 'missed' };
  }

  get deadline(): number {
    return this.#reader.deadline;
  }

  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#watchers.leaveOut(this);
    this.#registration.end();
    for (const { resolve } of this.#requests.splice(0)) resolve(done());
  }

  fail(error: unknown): void {
    this.#requests.shift()?.reject(error);
    this.end();
  }

  return(): Promise<Result> {
    this.end();
    return Promise.resolve(done());
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end();
  }
}
