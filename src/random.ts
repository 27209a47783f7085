/**
 * Random numbers from the system. Not by the global `crypto`: Node loads that at its first use, and if a vm timeout strikes meanwhile
 * it does not work in this process any more.
 */
import { native } from './native.js';

/** 16 bytes in hex. */
export function randomId(): string {
  return native.randomId();
}

/** A signed 32-bit number. */
export function randomWord(): number {
  return Number.parseInt(native.randomId().slice(0, 8), 16) | 0;
}
