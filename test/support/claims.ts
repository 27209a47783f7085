/** What the control file says of claims, as docs/format.md has it. */
import { readFileSync } from 'node:fs';
import { CLAIM_CONFIRMED_BIT, CLAIM_COUNT, CLAIM_SIZE, CLAIMS_OFFSET, OWNER_SLOT_MASK } from '../../dist/layout.js';

export interface ClaimFacts {
  place: number;
  slot: number;
  isConfirmed: boolean;
}

/** The claims that somebody has on the store. */
export function claimsOf(path: string): ClaimFacts[] {
  const bytes = readFileSync(`${path}.lock`);
  const claims: ClaimFacts[] = [];
  for (let place = 0; place < CLAIM_COUNT; place++) {
    const state = bytes.readInt32LE(CLAIMS_OFFSET + place * CLAIM_SIZE);
    const slot = state & OWNER_SLOT_MASK;
    if (slot !== 0) claims.push({ place, slot, isConfirmed: (state & CLAIM_CONFIRMED_BIT) !== 0 });
  }
  return claims;
}
