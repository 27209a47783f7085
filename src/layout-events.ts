/** The part of layout.ts that watch() works with: see events.ts. All of it lies in the control file. */

/** version << 1 | somebody watches: alone in its cache line, since every write looks at it. */
export const C_WATCHED_WORD = 1216;
/** Tickets given so far, 64 bits: the next event's ticket. */
export const C_EVENTS_WORD = 1232; // 2 words
/** Odd: somebody sleeps on this word (a futex word), and wants to be woken. Each wake makes it even, by adding 1, as going to sleep makes it odd. */
export const C_SLEEPERS_WORD = 1248;

/** In an owner slot. 1: this open has watchers. */
export const O_WATCHING_WORD = 9;
/** In an owner slot. 1: its clear() is under way, and nobody has been told yet. */
export const O_CLEARING_WORD = 10;

/** The ring of events, behind the failures. */
export const EVENTS_OFFSET = 262144;
export const EVENT_COUNT = 4096;
export const EVENT_SIZE = 64;
/** Owner slot (11 bits) | done << 11 | lap << 12 (20 bits): ticket / EVENT_COUNT. 0: never used. */
export const V_STATE_WORD = 0;
/** Type (3 bits) | bytes of the key << 3. */
export const V_TYPE_WORD = 1;
/** Bytes of the key: so many of it here, the rest in the slots behind. */
export const V_KEY_WORD = 2;
export const V_KEY_WORDS = 14;
export const EVENT_DONE_BIT = 0x800;
export const EVENT_LAP_SHIFT = 12;
export const EVENT_TYPE_MASK = 7;
export const EVENT_KEY_SIZE_SHIFT = 3;
export const EVENT_SET = 1;
export const EVENT_DELETE = 2;
export const EVENT_CLEAR = 3;
/** Changes that nobody can name any more. */
export const EVENT_MISSED = 4;
/** Not the first slot of its event. */
export const EVENT_REST = 5;
