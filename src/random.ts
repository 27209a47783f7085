/** Random numbers from the system, by the global `crypto`: Node loads it at its first use, and most opens need none. */

/** 16 bytes in hex. */
export function randomId(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex');
}

/** A signed 32-bit number. */
export function randomWord(): number {
  return crypto.getRandomValues(new Int32Array(1))[0]!;
}
