/** The part of layout.ts that getOrCompute() works with: see claims.ts. All but the first lies in the control file. */

/** A record's expiry, high word: 21 bits of it, then for how long it is kept afterwards: mantissa (6 bits) << exponent (5 bits), ms. */
export const EXPIRY_HIGH_MASK = 0x1fffff;
export const GRACE_SHIFT = 21;
export const GRACE_EXPONENT_SHIFT = 27;

/** Computations that ended so far: whoever waits for one sleeps on this (a futex word). Failures recorded so far. */
export const C_COMPUTED_WORD = 1168;
export const C_FAILED_WORD = 1169;

/** Claims: who computes the value of which key. An open addressing table of {state, deadline}, 64 bits each. */
export const CLAIMS_OFFSET = 139264;
export const CLAIM_SIZE = 16;
export const CLAIM_COUNT = 2048;
/** Places that a claim may have, from its home on. */
export const CLAIM_WINDOW = 64;
/** Low word of the state: owner slot (11 bits; 0: free) | confirmed << 11 | ticket << 12. */
export const CLAIM_STATE_WORD = 0;
/** High word of the state: identity of the key; 0 when free. */
export const CLAIM_IDENTITY_WORD = 1;
/** Low word of the deadline: that of the state which it belongs to. */
export const CLAIM_DEADLINE_OF_WORD = 2;
/** High word of the deadline: ms of the monotonic clock. */
export const CLAIM_DEADLINE_WORD = 3;
export const CLAIM_CONFIRMED_BIT = 0x800;
export const CLAIM_TICKET_SHIFT = 12;

/** The last failures of computations, for whoever waited. */
export const FAILURES_OFFSET = CLAIMS_OFFSET + CLAIM_COUNT * CLAIM_SIZE;
export const FAILURE_COUNT = 64;
export const FAILURE_SIZE = 256;
/** The claim's number + 1; 0: is being written. */
export const F_CLAIM_WORD = 0;
/** State of the claim while it failed. */
export const F_STATE_WORD = 1; // 2 words
/** Bytes of the text. */
export const F_SIZE_WORD = 3;
/** UTF-8, from here to the end. */
export const F_TEXT_WORD = 4;
