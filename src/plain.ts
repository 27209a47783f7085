/**
 * Plain objects and arrays to bytes and back: what JSON can say, and undefined, NaN, infinities, -0 and dates. It is two to four
 * times as fast as V8's structured clone, and gives the very same back. plain-writer.ts refuses whatever else it meets (a Map, a
 * class instance, a second reference to an object, a hole in an array, ...): the caller then clones, and getters are read once more.
 * A Map whose prototype somebody made Object.prototype passes for an empty object.
 *
 * Objects with the same keys in the same order share a **shape**, which a value defines where it first needs it: each value can
 * be read by itself. The reader knows the shapes that it has met before by their bytes. The idea is that of msgpackr's records
 * (https://github.com/kriszyp/msgpackr), which are parsed anew for each value unless many values share them, and then cannot be read alone.
 * Where keys are data (an object by user, say), shapes only cost: such objects have their keys one by one.
 *
 * docs/format.md has the bytes. Every length is checked before use: bytes that make no value are an error, and nothing worse.
 */

/** First bytes of a value. Those below are a small number, a short text, a short array, an object of one of the first shapes. */
export const T_TEXT = 0x40;
export const T_ARRAY = 0x80;
export const T_OBJECT = 0xa0;
export const T_NULL = 0xc0;
export const T_FALSE = 0xc1;
export const T_TRUE = 0xc2;
export const T_UNDEFINED = 0xc3;
export const T_INT8 = 0xc4;
export const T_INT16 = 0xc5;
export const T_INT32 = 0xc6;
export const T_FLOAT = 0xc7;
export const T_DATE = 0xc8;
export const T_LONG_ASCII = 0xc9;
export const T_LONG_UTF8 = 0xca;
export const T_LONG_ARRAY = 0xcb;
export const T_DEFINE = 0xcc;
export const T_LATER_SHAPE = 0xcd;
export const T_KEYED = 0xce;

export const SHORT_TEXT = T_ARRAY - T_TEXT;
export const SHORT_ARRAY = T_OBJECT - T_ARRAY;
export const FIRST_SHAPES = T_NULL - T_OBJECT;
/** Levels of objects within objects. */
export const MAX_DEPTH = 64;
/** Bytes of a value: the memory that the writer keeps for the next one. */
export const MAX_SIZE = 2 ** 20;
/** Keys of a shape; an object of more has them one by one. */
export const MAX_KEYS = 256;
/** Bytes of a shape: its keys. */
export const MAX_SHAPE_SIZE = 0x4000;
/** Bytes before a definition's keys: token, their size, their hash. */
export const DEFINE_SIZE = 7;
