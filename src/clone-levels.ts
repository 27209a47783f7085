/**
 * How deeply a clone is nested, told from its bytes without making the value: a tenth of the time. Tags that are not known here make
 * the answer Infinity, never a number that is too small.
 */

/** Tags of V8's format (ValueSerializer) with what follows them; a value within another comes as tags of its own. */
const NOTHING = 1;
const ONE_NUMBER = 2;
const EIGHT_BYTES = 3;
/** A number, then so many bytes. */
const SIZED = 4;
const BIGINT = 5;
const VIEW = 6;
const REGEXP = 7;
/** As Node writes typed arrays: their class, then as SIZED. */
const HOST_OBJECT = 8;
const BEGIN = 9;
const BEGIN_ARRAY = 10;
const END = 11;
const END_ARRAY = 12;

const kinds = new Uint8Array(256);
for (const [tags, kind] of [
  // Padding, undefined, null, true, false, a hole, Boolean and String objects.
  ['\0_0TF-yxs', NOTHING],
  ['IU^', ONE_NUMBER],
  // A double, a Date, a Number object.
  ['NDn', EIGHT_BYTES],
  // Strings and ArrayBuffers.
  ['"cSB', SIZED],
  ['Zz', BIGINT],
  ['V', VIEW],
  ['R', REGEXP],
  ['\\', HOST_OBJECT],
  // An object, a Map, a Set.
  ["o;'", BEGIN],
  ['{:,', END],
  // Arrays, dense and sparse.
  ['Aa', BEGIN_ARRAY],
  ['$@', END_ARRAY],
] as const)
  for (const tag of tags) kinds[tag.charCodeAt(0)] = kind;

let at = 0;

function readNumber(bytes: Uint8Array): number {
  let value = 0;
  for (let scale = 1; ; scale *= 128) {
    const byte = bytes[at++];
    if (byte === undefined) return Number.POSITIVE_INFINITY;
    value += (byte & 127) * scale;
    if (byte < 128) return value;
  }
}

function skipSized(bytes: Uint8Array, unit: number): void {
  // Not at += readNumber(): that would take `at` as it was before.
  const size = Math.floor(readNumber(bytes) / unit);
  at += size;
}

/** The levels of a clone; Infinity: not known. */
export function levelsOf(clone: Uint8Array): number {
  // Behind 0xff and the version.
  at = 2;
  let levels = 0;
  let most = 0;
  let isRegExp = false;
  while (at < clone.length) {
    const kind = kinds[clone[at++]!]!;
    switch (kind) {
      case NOTHING:
        break;
      case ONE_NUMBER:
        readNumber(clone);
        break;
      case EIGHT_BYTES:
        at += 8;
        break;
      case HOST_OBJECT:
        readNumber(clone);
        skipSized(clone, 1);
        break;
      case SIZED:
        skipSized(clone, 1);
        if (isRegExp) readNumber(clone);
        isRegExp = false;
        break;
      case BIGINT:
        // The lowest bit is the sign.
        skipSized(clone, 2);
        break;
      case VIEW:
        for (let i = 0; i < 4; i++) readNumber(clone);
        break;
      case REGEXP:
        // Its flags follow the text.
        isRegExp = true;
        break;
      case BEGIN_ARRAY:
        readNumber(clone);
        most = Math.max(most, ++levels);
        break;
      case BEGIN:
        most = Math.max(most, ++levels);
        break;
      case END_ARRAY:
        readNumber(clone);
        readNumber(clone);
        levels--;
        break;
      case END:
        readNumber(clone);
        levels--;
        break;
      default:
        return Number.POSITIVE_INFINITY;
    }
  }
  return at === clone.length && levels === 0 ? most : Number.POSITIVE_INFINITY;
}
