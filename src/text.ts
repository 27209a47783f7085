/**
 * Strings to bytes and back by the shortest way that V8 has for their length: a loop over character codes below the limits
 * given here, a call into the runtime beyond. The limits are measured; bench/codec.mjs measures them again.
 */

/** Methods that every Buffer has and its types do not name: `write` and `toString` without the look at the encoding's name. */
export interface RawBuffer extends Buffer {
  utf8Write(text: string, offset: number): number;
  ucs2Write(text: string, offset: number): number;
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
  ucs2Slice(start: number, end: number): string;
}

/** From Node 22 on V8 calls `utf8Write` without leaving compiled code: 20 ns instead of 65. */
const nativeWritesAreCheap = Number(process.versions.node.split('.')[0]) >= 22;
/** Up to this length a string is packed four characters to a word by `packAscii`. */
export const packLimit = nativeWritesAreCheap ? 20 : 28;
/** Up to this length TextEncoder beats `utf8Write` before Node 22. */
const encodeIntoLimit = nativeWritesAreCheap ? 0 : 400;
const encoder = new TextEncoder();

/** Packs a string into whole words, the last one padded with zeros; false, at once, when a character is not ASCII. */
export function packAscii(text: string, words: Int32Array): boolean {
  const length = text.length;
  const end = length & ~3;
  let index = 0;
  while (index < end) {
    const a = text.charCodeAt(index);
    const b = text.charCodeAt(index + 1);
    const c = text.charCodeAt(index + 2);
    const d = text.charCodeAt(index + 3);
    if ((a | b | c | d) > 127) return false;
    words[index >>> 2] = a | (b << 8) | (c << 16) | (d << 24);
    index += 4;
  }
  if (index === length) return true;
  let seen = text.charCodeAt(index);
  let word = seen;
  if (index + 1 < length) {
    const b = text.charCodeAt(index + 1);
    seen |= b;
    word |= b << 8;
    if (index + 2 < length) {
      const c = text.charCodeAt(index + 2);
      seen |= c;
      word |= c << 16;
    }
  }
  words[end >>> 2] = word;
  return seen < 128;
}

/** Writes as much of the string as fits, whole characters only; returns the bytes written. */
export function writeUtf8(text: string, target: RawBuffer): number {
  return text.length <= encodeIntoLimit ? encoder.encodeInto(text, target).written : target.utf8Write(text, 0);
}

/** Clears the bytes from `size` to the end of their word. */
export function padWord(words: Int32Array, size: number): void {
  const rest = size & 3;
  if (rest === 0) return;
  const index = size >>> 2;
  words[index] = words[index] & ((1 << (rest << 3)) - 1);
}

export function isWellFormed(text: string): boolean {
  return (text as unknown as { isWellFormed(): boolean }).isWellFormed();
}

/** Up to this size a string is made of character codes: 13 to 21 ns instead of 57. */
export const shortText = 12;

/** At most `shortText` bytes, one character each. */
export function decodeShortText(s: Uint8Array, i: number, size: number): string {
  const text = String.fromCharCode;
  switch (size) {
    case 0:
      return '';
    case 1:
      return text(s[i]);
    case 2:
      return text(s[i], s[i + 1]);
    case 3:
      return text(s[i], s[i + 1], s[i + 2]);
    case 4:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3]);
    case 5:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4]);
    case 6:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5]);
    case 7:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6]);
    case 8:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7]);
    case 9:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7], s[i + 8]);
    case 10:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7], s[i + 8], s[i + 9]);
    case 11:
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7], s[i + 8], s[i + 9], s[i + 10]);
    default:
      // biome-ignore format: one line, as its eleven siblings
      return text(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6], s[i + 7], s[i + 8], s[i + 9], s[i + 10], s[i + 11]);
  }
}
