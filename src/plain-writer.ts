/** Plain values to bytes: see plain.ts. */
import { types } from 'node:util';
import {
  DEFINE_SIZE,
  FIRST_SHAPES,
  MAX_DEPTH,
  MAX_KEYS,
  MAX_SHAPE_SIZE,
  MAX_SIZE,
  SHORT_ARRAY,
  SHORT_TEXT,
  T_ARRAY,
  T_DATE,
  T_DEFINE,
  T_FALSE,
  T_FLOAT,
  T_INT8,
  T_INT16,
  T_INT32,
  T_KEYED,
  T_LATER_SHAPE,
  T_LONG_ARRAY,
  T_LONG_ASCII,
  T_LONG_UTF8,
  T_NULL,
  T_OBJECT,
  T_TEXT,
  T_TRUE,
  T_UNDEFINED,
} from './plain.js';
import { isWellFormed, type RawBuffer } from './text.js';

/** FNV-1a (Fowler, Noll, Vo), 32 bits. */
function hashOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5 | 0;
  for (let i = 0; i < bytes.length; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return hash;
}

/** A shape as it is written. */
interface WrittenShape {
  keys: string[];
  /** The whole definition. */
  definition: Uint8Array;
  /** The value that has it already, and as which. */
  serial: number;
  index: number;
}

/** A shape's keys lead to it, one by one. */
class ShapeNode {
  readonly key: string;
  /** The one that was asked for last: most often it is asked for again. */
  last: ShapeNode | null = null;
  others: Map<string, ShapeNode> | null = null;
  shape: WrittenShape | null = null;

  constructor(key: string) {
    this.key = key;
  }
}

/** So many keys of shapes are kept; then all are forgotten, since objects are in use whose keys are data. */
const MAX_NODES = 8192;
let rootNode = new ShapeNode('');
let nodeCount = 0;
let lastSerial = 0;

/** How many keys of new shapes may be kept: one more with each value, so that objects whose keys are data do not cost more than they must. */
const MAX_CREDIT = 4096;
let credit = MAX_CREDIT;

/** UTF-16 units of a key that is kept; longer ones are data. */
const MAX_KEPT_KEY = 128;

/** Null: no more for now. */
function addNode(from: ShapeNode, key: string): ShapeNode | null {
  let node = from.others?.get(key);
  if (node === undefined) {
    if (credit <= 0 || key.length > MAX_KEPT_KEY) return null;
    credit--;
    if (nodeCount >= MAX_NODES) {
      rootNode = new ShapeNode('');
      nodeCount = 0;
    }
    nodeCount++;
    node = new ShapeNode(key);
    from.others ??= new Map();
    from.others.set(key, node);
  }
  from.last = node;
  return node;
}

/** Null for keys that cannot be written. */
function makeShape(value: object): WrittenShape | null {
  const keys = Object.keys(value);
  const bytes: number[] = [];
  for (const key of keys) {
    if (key === '__proto__' || !isWellFormed(key)) return null;
    const text = Buffer.from(key);
    if (text.length > MAX_SHAPE_SIZE) return null;
    bytes.push(text.length & 0xff, text.length >>> 8, ...text);
    if (bytes.length > MAX_SHAPE_SIZE) return null;
  }
  const definition = Buffer.alloc(DEFINE_SIZE + bytes.length);
  definition[0] = T_DEFINE;
  definition.writeUInt16LE(bytes.length, 1);
  definition.writeInt32LE(hashOf(Uint8Array.from(bytes)), 3);
  definition.set(bytes, DEFINE_SIZE);
  return { keys, definition, serial: 0, index: 0 };
}

/** Up to so many objects are compared with each other; more are put into a Set. */
const FEW = 48;
const getTime = Date.prototype.getTime;

class PlainWriter {
  bytes = Buffer.allocUnsafeSlow(4096) as RawBuffer;
  /** The same memory. */
  words = new Int32Array(this.bytes.buffer);
  size = 0;
  #view = new DataView(this.bytes.buffer);
  #serial = 0;
  #shapeCount = 0;
  #seen: (object | undefined)[] = [];
  #seenCount = 0;
  #seenSet: Set<object> | undefined;

  /** False: not a plain value. */
  write(value: object): boolean {
    this.size = 0;
    this.#shapeCount = 0;
    this.#seenCount = 0;
    this.#seenSet = undefined;
    this.#serial = ++lastSerial;
    if (credit < MAX_CREDIT) credit++;
    // Nothing inherited may show in a for loop over keys.
    for (const _ in Object.prototype) return false;
    const isPlain = this.#object(value, MAX_DEPTH);
    this.#seen.fill(undefined, 0, this.#seenCount);
    this.#seenSet = undefined;
    return isPlain;
  }

  #room(count: number): boolean {
    const need = this.size + count;
    if (need <= this.bytes.length) return true;
    if (need > MAX_SIZE) return false;
    const larger = Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(need))) as RawBuffer;
    larger.set(this.bytes);
    this.bytes = larger;
    this.words = new Int32Array(larger.buffer);
    this.#view = new DataView(larger.buffer);
    return true;
  }

  #value(value: unknown, depth: number): boolean {
    switch (typeof value) {
      case 'string':
        return this.#text(value);
      case 'number':
        return this.#number(value);
      case 'object':
        return value === null ? this.#token(T_NULL) : this.#object(value, depth);
      case 'boolean':
        return this.#token(value ? T_TRUE : T_FALSE);
      case 'undefined':
        return this.#token(T_UNDEFINED);
      default:
        return false;
    }
  }

  #token(token: number): boolean {
    if (!this.#room(1)) return false;
    this.bytes[this.size++] = token;
    return true;
  }

  #number(value: number): boolean {
    if (!this.#room(9)) return false;
    const { bytes, size } = this;
    const int = value | 0;
    if (int !== value || (int === 0 && Object.is(value, -0))) {
      bytes[size] = T_FLOAT;
      this.#view.setFloat64(size + 1, value, true);
      this.size = size + 9;
    } else if (int >= 0 && int < T_TEXT) {
      bytes[size] = int;
      this.size = size + 1;
    } else if (int >= -128 && int < 128) {
      bytes[size] = T_INT8;
      bytes[size + 1] = int;
      this.size = size + 2;
    } else if (int >= -32_768 && int < 32_768) {
      bytes[size] = T_INT16;
      bytes[size + 1] = int;
      bytes[size + 2] = int >> 8;
      this.size = size + 3;
    } else {
      bytes[size] = T_INT32;
      this.#view.setInt32(size + 1, int, true);
      this.size = size + 5;
    }
    return true;
  }

  #text(value: string): boolean {
    const length = value.length;
    if (length >= SHORT_TEXT || !this.#room(1 + length)) return this.#longText(value);
    const { bytes, size } = this;
    bytes[size] = T_TEXT + length;
    let seen = 0;
    for (let i = 0; i < length; i++) {
      const code = value.charCodeAt(i);
      seen |= code;
      bytes[size + 1 + i] = code;
    }
    if (seen > 127) return this.#longText(value);
    this.size = size + 1 + length;
    return true;
  }

  #longText(value: string): boolean {
    const { length } = value;
    if (!this.#room(5 + length * 3) || !isWellFormed(value)) return false;
    const { bytes, size } = this;
    const written = bytes.utf8Write(value, size + 5);
    bytes[size] = written === length ? T_LONG_ASCII : T_LONG_UTF8;
    this.#view.setInt32(size + 1, written, true);
    this.size = size + 5 + written;
    return true;
  }

  #object(value: object, depth: number): boolean {
    if (types.isProxy(value)) return false;
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype === Object.prototype && !Array.isArray(value))
      return depth > 0 && this.#isNew(value) && this.#properties(value as Record<string, unknown>, depth);
    if (prototype === Array.prototype && Array.isArray(value)) return depth > 0 && this.#isNew(value) && this.#elements(value, depth);
    if (prototype !== Date.prototype || !types.isDate(value) || !this.#isNew(value) || !this.#room(9)) return false;
    this.bytes[this.size] = T_DATE;
    this.#view.setFloat64(this.size + 1, getTime.call(value), true);
    this.size += 9;
    return true;
  }

  /** A clone keeps two references to one object, and cycles: here there is only one. */
  #isNew(value: object): boolean {
    const seen = this.#seen;
    const count = this.#seenCount;
    if (count < FEW) {
      for (let i = 0; i < count; i++) if (seen[i] === value) return false;
      seen[count] = value;
      this.#seenCount = count + 1;
      return true;
    }
    this.#seenSet ??= new Set(seen as object[]);
    const { size } = this.#seenSet;
    return this.#seenSet.add(value).size !== size;
  }

  #elements(value: unknown[], depth: number): boolean {
    const { length } = value;
    if (!this.#room(5 + length)) return false;
    if (length < SHORT_ARRAY) {
      this.bytes[this.size++] = T_ARRAY + length;
    } else {
      this.bytes[this.size] = T_LONG_ARRAY;
      this.#view.setInt32(this.size + 1, length, true);
      this.size += 5;
    }
    for (let i = 0; i < length; i++) {
      const element = value[i];
      if ((element === undefined && !(i in value)) || !this.#value(element, depth - 1)) return false;
    }
    // Arrays may have properties, too.
    const keys = Object.keys(value);
    return keys.length === length && (length === 0 || keys[length - 1] === String(length - 1));
  }

  #properties(value: Record<string, unknown>, depth: number): boolean {
    let node = rootNode;
    let count = 0;
    for (const key in value) {
      const { last } = node;
      const next = last !== null && last.key === key ? last : addNode(node, key);
      if (next === null || ++count > MAX_KEYS) return this.#keyed(value, depth);
      node = next;
    }
    const shape = node.shape ?? makeShape(value);
    if (shape === null || !this.#shape(shape)) return false;
    if (node.shape === null) {
      node.shape = shape;
      // Its bytes, in nodes.
      nodeCount += shape.definition.length >>> 6;
    }
    const { keys } = shape;
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i]!;
      const property = value[key];
      // A getter of one may have deleted another.
      if ((property === undefined && !(key in value)) || !this.#value(property, depth - 1)) return false;
    }
    return true;
  }

  /** An object with its keys one by one. */
  #keyed(value: Record<string, unknown>, depth: number): boolean {
    if (!this.#room(3)) return false;
    const start = this.size;
    this.size += 3;
    let count = 0;
    for (const key in value) {
      if (key === '__proto__' || ++count > 0xffff || !this.#text(key)) return false;
      const property = value[key];
      if ((property === undefined && !(key in value)) || !this.#value(property, depth - 1)) return false;
    }
    this.bytes[start] = T_KEYED;
    this.#view.setUint16(start + 1, count, true);
    return true;
  }

  #shape(shape: WrittenShape): boolean {
    if (shape.serial !== this.#serial) {
      const { definition } = shape;
      if (!this.#room(definition.length)) return false;
      shape.serial = this.#serial;
      shape.index = this.#shapeCount++;
      this.bytes.set(definition, this.size);
      this.size += definition.length;
      return shape.index < 0xffff;
    }
    if (shape.index < FIRST_SHAPES) return this.#token(T_OBJECT + shape.index);
    if (!this.#room(3)) return false;
    this.bytes[this.size] = T_LATER_SHAPE;
    this.#view.setUint16(this.size + 1, shape.index, true);
    this.size += 3;
    return true;
  }
}

let spare: PlainWriter | undefined;

export interface PlainBytes {
  /** The value is the first `size` bytes, until the next value is encoded. */
  bytes: Uint8Array;
  /** The same memory. */
  words: Int32Array;
  size: number;
}

/** Undefined: it has to be cloned. What a getter throws passes through. */
export function encodePlain(value: object): PlainBytes | undefined {
  // Taken away while it is in use: a getter may encode other values.
  const writer = spare ?? new PlainWriter();
  spare = undefined;
  const isPlain = writer.write(value);
  spare = writer;
  return isPlain ? writer : undefined;
}
