/**
 * Every number of the file format: offsets, sizes, limits, bits. A test compares it with docs/format.md.
 *
 * `*_WORD`: an index in 32-bit words from the start of its structure; `*_OFFSET`, `*_SIZE`: bytes; all little endian.
 *
 *   data file    = extents of 64 KiB, numbered from 0
 *   extent 0     = header copy 0 | header copy 1 | root | directory extents | directory entries 0 to 8191
 *   extent n     = extent header (64 bytes) | what its kind says
 *   control file = control header | global locks | owner slots | claims | events | one entry of 64 bytes for each extent
 *   redo log     = header of 4 KiB | half for even epochs | half for odd epochs
 */

import { CLAIMS_OFFSET, FAILURE_COUNT, FAILURE_SIZE, FAILURES_OFFSET } from './layout-claims.js';
import { EVENT_COUNT, EVENT_SIZE, EVENTS_OFFSET, O_CLEARING_WORD } from './layout-events.js';

// ---- Units -------------------------------------------------------------------------------------------------------

export const EXTENT_SIZE = 65536;
export const EXTENT_WORDS = EXTENT_SIZE / 4;
/** Extents in a region: a region is one mapping and one ArrayBuffer of 1 GiB. */
export const REGION_EXTENTS = 16384;
export const REGION_SHIFT = 14;
export const REGION_MASK = REGION_EXTENTS - 1;
/** Words of an extent within its region: (extent & REGION_MASK) << EXTENT_WORD_SHIFT. */
export const EXTENT_WORD_SHIFT = 14;
/** Records are placed in units of 8 bytes. */
export const UNIT_SIZE = 8;
export const EXTENT_UNITS = EXTENT_SIZE / UNIT_SIZE;
export const EXTENT_UNIT_SHIFT = 13;
export const EXTENT_UNIT_MASK = EXTENT_UNITS - 1;
/** 4 TiB: extents are numbered with 26 bits. */
export const MAX_EXTENTS = 1 << 26;

// ---- Extent 0: two header copies, the root, the directory ----------------------------------------------------------

export const FORMAT_VERSION = 1;
export const HEADER_SIZE = 4096;
/** 'mmapkv\r\n' as two little-endian words. */
export const HEADER_MAGIC_0 = 0x70616d6d;
export const HEADER_MAGIC_1 = 0x0a0d766b;
export const BYTE_ORDER_MARK = 0x01020304;

export const H_MAGIC_WORD = 0; // 2 words
export const H_VERSION_WORD = 2;
export const H_BYTE_ORDER_WORD = 3;
/** Of the two copies the valid one with the higher sequence counts. */
export const H_SEQUENCE_WORD = 4;
/** Over the 4,096 bytes with this word as 0. */
export const H_CHECKSUM_WORD = 5;
export const H_STORE_ID_WORD = 6; // 4 words
export const H_HASH_SEED_WORD = 10;
export const H_EXTENT_SIZE_WORD = 11;
export const H_SEGMENT_SIZE_WORD = 12;
export const H_EVICTION_WORD = 13;
/** 1: closed after everything was synced; 0: in use, or not closed. */
export const H_CLEAN_WORD = 14;
export const H_EPOCH_WORD = 15;
export const H_DURABLE_EPOCH_WORD = 16;
export const H_EXTENT_COUNT_WORD = 17;
export const H_MAX_SIZE_WORD = 18; // 2 words, bytes; 0: none
export const H_CREATED_WORD = 20; // 2 words, ms since 1970
export const H_BOOT_ID_WORD = 22; // 4 words: of the machine that had it open last
export const H_DEVICE_WORD = 26; // 2 words
export const H_INODE_WORD = 28; // 2 words
export const H_CONTROL_ID_WORD = 30; // 4 words: the control file that belongs to this run
/** 1: somebody had it open with durability 'none' since the last clean close: extents were reused before a checkpoint. */
export const H_LOOSE_WORD = 34;
export const H_END_WORD = 35;

export const ROOT_OFFSET = 8192;
export const ROOT_WORD = ROOT_OFFSET / 4;
export const R_EPOCH_WORD = ROOT_WORD + 0;
/** Bits of the hash that the directory looks at. */
export const R_DEPTH_WORD = ROOT_WORD + 1;
/** Extents that the file has, all of them allocated. */
export const R_EXTENT_COUNT_WORD = ROOT_WORD + 2;
/** First extent that was never used; those from here to the extent count are zero. */
export const R_FRESH_WORD = ROOT_WORD + 3;
export const R_FREE_HEAD_WORD = ROOT_WORD + 4;
export const R_FREE_COUNT_WORD = ROOT_WORD + 5;
export const R_QUARANTINE_HEAD_WORD = ROOT_WORD + 6;
export const R_QUARANTINE_TAIL_WORD = ROOT_WORD + 7;
export const R_QUARANTINE_COUNT_WORD = ROOT_WORD + 8;
/** The extent that a push to one of the lists has in hand; 0: none. */
export const R_PENDING_FREE_WORD = ROOT_WORD + 9;
export const R_PENDING_QUARANTINE_WORD = ROOT_WORD + 10;
/** Extents that are free and were given back to the file system. */
export const R_HOLE_HEAD_WORD = ROOT_WORD + 11;
export const R_HOLE_COUNT_WORD = ROOT_WORD + 12;

export const DIRECTORY_LIST_OFFSET = 16384;
export const DIRECTORY_LIST_WORD = DIRECTORY_LIST_OFFSET / 4;
export const DIRECTORY_LIST_COUNT = 2048;
/** Entries lie in the second half of an extent, so that their place is a shift and a mask. */
export const DIRECTORY_ENTRIES_OFFSET = 32768;
export const DIRECTORY_ENTRIES_WORD = DIRECTORY_ENTRIES_OFFSET / 4;
export const DIRECTORY_EXTENT_ENTRIES = 8192;
export const DIRECTORY_EXTENT_SHIFT = 13;
export const DIRECTORY_EXTENT_MASK = DIRECTORY_EXTENT_ENTRIES - 1;
export const INITIAL_DEPTH = 3;
export const MAX_DEPTH = 24;

// ---- Extent header: the first 64 bytes of every extent but extent 0 --------------------------------------------------

export const EXTENT_HEADER_SIZE = 64;
export const EXTENT_HEADER_WORDS = EXTENT_HEADER_SIZE / 4;
export const EXTENT_HEADER_UNITS = EXTENT_HEADER_SIZE / UNIT_SIZE;
/** Even: the head of a segment that is alive; odd: anything else. Raised on every reuse; never goes back. */
export const X_GENERATION_WORD = 0;
/** kind | owner << 4: an owner that is not 0 has the extent in reserve, nothing refers to it yet. */
export const X_STATE_WORD = 1;
/** The head extent of the segment that it is part of; for values the key's hash. */
export const X_SEGMENT_WORD = 2;
/** Place in the segment's (or value's) list. */
export const X_ORDINAL_WORD = 3;
/** Next extent in the free list or the quarantine. */
export const X_NEXT_WORD = 4;
export const X_RETIRED_EPOCH_WORD = 5;
export const X_CREATED_EPOCH_WORD = 6;
/** The generation with which the extent was reserved; constant until it is freed. Part of its records' checksums. */
export const X_BIRTH_WORD = 7;
/** In the last extent of the file: the store's epoch, so that a copy of the file tells how late its end was copied. */
export const X_NEWEST_EPOCH_WORD = 8;

export const KIND_MASK = 15;
export const KIND_OWNER_SHIFT = 4;
export const KIND_FRESH = 0;
export const KIND_FREE = 1;
export const KIND_QUARANTINED = 2;
export const KIND_HEAD = 3;
export const KIND_LOG = 4;
export const KIND_INDEX = 5;
export const KIND_VALUE = 6;
export const KIND_VALUE_LIST = 7;
export const KIND_DIRECTORY = 8;
/** Note of a batch: what is to be done, for whoever finds it undone. */
export const KIND_NOTE = 9;
/** Free, and its blocks given back to the file system but for the first page: allocated again before it is used. */
export const KIND_HOLE = 10;

// ---- Segment: its head extent --------------------------------------------------------------------------------------
// Words 8 to 15 share the cache line of the extent header: what a reader needs.

/** 'segm': in every head, covered by the checksum. */
export const SEGMENT_MAGIC = 0x6d676573;
export const S_MAGIC_WORD = 8;
/** The low bits of the hash that all keys of the segment share. */
export const S_PREFIX_WORD = 9;
/** How many bits that is. */
export const S_DEPTH_WORD = 10;
/** log2(slots) | list << 5 | inline << 6: one word says which index is the segment's. */
export const S_INDEX_WORD = 11;
export const S_CHILD_0_WORD = 12;
export const S_CHILD_1_WORD = 13;
/** Over magic, prefix, depth, log start, creation epoch and birth. */
export const S_CHECKSUM_WORD = 14;
export const S_LOG_START_WORD = 15;
// From word 16 on: what the holder of the lock changes.
/** Work left by a writer that failed or was interrupted: PENDING_* bits. */
export const S_PENDING_WORD = 16;
/** Place (unit) of the record whose value extents are to be retired. */
export const S_PENDING_VALUE_WORD = 17;
export const S_LOG_COUNT_WORD = 18;
/** Place (unit) of the next record. */
export const S_TAIL_WORD = 19;
export const S_COUNT_WORD = 20;
/** Slots in use, tombstones included. */
export const S_USED_WORD = 21;
/** Units of the log that live records take. */
export const S_LIVE_UNITS_WORD = 22;
export const S_SEQUENCE_LOW_WORD = 23;
export const S_SEQUENCE_HIGH_WORD = 24;
/** Extents that live large values take. */
export const S_VALUE_EXTENTS_WORD = 25;
/** REPLACED_*: how the replacement came about. */
export const S_REPLACED_WORD = 26;
/** Epoch that the children were created in; 0: not replaced. A checkpoint of this epoch or a later one has the children. */
export const S_REPLACED_EPOCH_WORD = 27;
/** Place at which the hand of the eviction stands: see evict.ts. */
export const S_HAND_WORD = 28;

export const INDEX_BITS_MASK = 31;
export const INDEX_LIST_BIT = 32;
export const INDEX_INLINE_BIT = 64;
export const PENDING_REPAIR = 1;
export const REPLACED_CLEARED = 1;
/** One record was left out, the one whose place stands in the pending value's word. */
export const REPLACED_WITHOUT = 2;
/** Some records were left out; the large values among them are those that nothing refers to any more. */
export const REPLACED_EVICTED = 4;

export const INDEX_LIST_COUNT = 256;
export const INDEX_LIST_0_OFFSET = 1024;
export const INDEX_LIST_1_OFFSET = 2048;
export const LOG_LIST_OFFSET = 4096;
export const LOG_LIST_COUNT = 4096;
export const INLINE_INDEX_OFFSET = 20480;
export const INLINE_INDEX_BITS = 11;
export const INDEX_LIST_0_WORD = INDEX_LIST_0_OFFSET / 4;
export const INDEX_LIST_1_WORD = INDEX_LIST_1_OFFSET / 4;
export const LOG_LIST_WORD = LOG_LIST_OFFSET / 4;
export const INLINE_INDEX_WORD = INLINE_INDEX_OFFSET / 4;
/** Log extent 0 is the head itself: its records begin behind the index within, or in its place. */
export const LOG_START_INLINE = (INLINE_INDEX_OFFSET + (8 << INLINE_INDEX_BITS)) / UNIT_SIZE;
export const LOG_START_BARE = INLINE_INDEX_OFFSET / UNIT_SIZE;

// ---- Slots: 8 bytes, {tag: the key's hash, ref: place of the record} -------------------------------------------------

export const SLOT_EMPTY = 0;
export const SLOT_TOMBSTONE = 1;
/** Slots of an index extent; the first 8 would lie on the extent header and are never used. */
export const INDEX_EXTENT_SLOTS = 8192;
export const INDEX_EXTENT_SHIFT = 13;
export const INDEX_EXTENT_MASK = INDEX_EXTENT_SLOTS - 1;
export const INDEX_EXTENT_SKIP = EXTENT_HEADER_SIZE / 8;
export const MAX_INDEX_BITS = INDEX_EXTENT_SHIFT + 8;

// ---- Records -------------------------------------------------------------------------------------------------------

/** key size (15 bits) | payload size << 15 (17 bits). */
export const K_SIZES_WORD = 0;
/** type (8 bits) | flags << 8 (8 bits) | high bits of the sequence << 16. */
export const K_TYPE_WORD = 1;
/** checksum of all the other words, exclusive-or mixed with the birth of the log extent. */
export const K_CHECKSUM_WORD = 2;
export const K_EPOCH_WORD = 3;
export const K_SEQUENCE_WORD = 4;
export const RECORD_HEADER_WORDS = 5;

export const KEY_SIZE_MASK = 0x7fff;
export const PAYLOAD_SIZE_SHIFT = 15;
export const TYPE_MASK = 0xff;
/** Two words follow the record's header: the expiry in ms since 1970. */
export const FLAG_EXPIRY = 0x100;
/** The payload is a reference to extents: see LARGE_*. */
export const FLAG_LARGE = 0x200;
/** A deletion: no key; payload {hash, place of the deleted record}. */
export const FLAG_DELETED = 0x400;
/** Set in every record, so that 0 behind the last record ends the log. */
export const FLAG_RECORD = 0x8000;
export const SEQUENCE_HIGH_SHIFT = 16;

export const MAX_KEY_SIZE = 16384;
export const MAX_VALUE_SIZE = 2 ** 30;
/** Two records of this size fit in one log extent. */
export const MAX_RECORD_SIZE = (EXTENT_SIZE - EXTENT_HEADER_SIZE) / 2;

/** Payload of a large record: value size, extents, content checksum, list extents, then pairs {extent, generation}, then the value's tail. */
export const LARGE_SIZE_WORD = 0;
export const LARGE_COUNT_WORD = 1;
export const LARGE_CHECKSUM_WORD = 2;
export const LARGE_LISTS_WORD = 3;
export const LARGE_HEADER_WORDS = 4;
/** More extents than this are listed in list extents, and the record lists those. */
export const LARGE_DIRECT_COUNT = 256;
export const EXTENT_PAYLOAD_SIZE = EXTENT_SIZE - EXTENT_HEADER_SIZE;
export const VALUE_LIST_PAIRS = EXTENT_PAYLOAD_SIZE / 8;

// ---- Note of a batch: extents of kind note; segment: the first of them; ordinal: place in the note; next: the next one ---

export const N_STATE_WORD = 16; // NOTE_COMMITTED, or else nothing is to be done
/** Over epoch, counts, and the first three words of each entry; seeded with the birth. */
export const N_CHECKSUM_WORD = 17;
/** Of all records of the batch. */
export const N_EPOCH_WORD = 18;
export const N_SEGMENT_COUNT_WORD = 19;
export const N_EXTENT_COUNT_WORD = 20;
/** Entries, one a segment: here in the first extent, from the end of the header on in further ones. */
export const N_ENTRIES_WORD = 32;
export const NOTE_COMMITTED = 0x65746f6e;
export const NOTE_ENTRY_WORDS = 4;
export const E_HEAD_WORD = 0;
/** Of the first of its operations, which follow one another: ordinal of the extent << 14 | word within. */
export const E_PLACE_WORD = 1;
export const E_COUNT_WORD = 2;
/** 1: done; the segment's lock may have been let go of since. */
export const E_DONE_WORD = 3;

/** An operation: this header, the key, the payload. It lies in one extent; a 0 instead of its size: go on in the next. */
export const P_SIZE_WORD = 0; // in words, header included
/** Over what follows it; seeded with the birth of the extent. */
export const P_CHECKSUM_WORD = 1;
export const P_HASH_WORD = 2;
/** As in the record that it is to become. */
export const P_SIZES_WORD = 3;
/** Type and flags: FLAG_EXPIRY, FLAG_LARGE, FLAG_DELETED. */
export const P_TYPE_WORD = 4;
export const P_EXPIRY_WORD = 5; // 2 words
export const OPERATION_HEADER_WORDS = 7;

// ---- Control file ----------------------------------------------------------------------------------------------------

/** 'mmapkvC\n'. */
export const CONTROL_MAGIC_0 = 0x70616d6d;
export const CONTROL_MAGIC_1 = 0x0a43766b;
export const CONTROL_VERSION = 2;
export const C_MAGIC_WORD = 0; // 2 words
export const C_VERSION_WORD = 2;
export const C_CHECKSUM_WORD = 3;
export const C_STORE_ID_WORD = 4; // 4 words
export const C_CONTROL_ID_WORD = 8; // 4 words
export const C_DEVICE_WORD = 12; // 2 words
export const C_INODE_WORD = 14; // 2 words
export const C_BOOT_ID_WORD = 16; // 4 words
export const C_END_WORD = 20;

/** Global locks: 64 bytes each, so that they do not share a cache line. */
export const GLOBAL_LOCKS_OFFSET = 4096;
export const LOCK_ALLOCATOR_WORD = GLOBAL_LOCKS_OFFSET / 4;
export const LOCK_DIRECTORY_WORD = LOCK_ALLOCATOR_WORD + 16;
export const LOCK_GROWTH_WORD = LOCK_ALLOCATOR_WORD + 32;
export const LOCK_CHECKPOINT_WORD = LOCK_ALLOCATOR_WORD + 48;
/** Whoever syncs the redo log for all who wait. */
export const LOCK_REDO_WORD = LOCK_ALLOCATOR_WORD + 64;
/** The durable epoch (a futex word), and the errno of the first sync that failed (0: none did). */
export const C_DURABLE_EPOCH_WORD = LOCK_ALLOCATOR_WORD + 80;
export const C_SYNC_ERROR_WORD = LOCK_ALLOCATOR_WORD + 81;
export const C_LEFT_EPOCH_WORD = LOCK_ALLOCATOR_WORD + 82; // newest epoch in which somebody wrote who is gone: others see to its checkpoint
export const C_BATCHES_WORD = LOCK_ALLOCATOR_WORD + 83; // how many batches were ever named in owner slots
export const C_LAST_SLOT_WORD = LOCK_ALLOCATOR_WORD + 84; // no owner slot above this one was ever taken
export const C_UNLOGGED_EPOCH_WORD = LOCK_ALLOCATOR_WORD + 85; // newest epoch of a batch that the redo log lacks
/** Redo log: bytes used of each half; records written and records synced so far (a futex word). */
export const C_REDO_TAIL_0_WORD = LOCK_ALLOCATOR_WORD + 96;
export const C_REDO_TAIL_1_WORD = LOCK_ALLOCATOR_WORD + 97;
export const C_REDO_WRITTEN_WORD = LOCK_ALLOCATOR_WORD + 112;
export const C_REDO_SYNCED_WORD = LOCK_ALLOCATOR_WORD + 128;

export const OWNERS_OFFSET = 8192;
export const OWNERS_WORD = OWNERS_OFFSET / 4;
export const OWNER_WORDS = 16;
/** Slot numbers are 1 to 2047: 0 means "nobody". */
export const OWNER_COUNT = 2047;
/** incarnation << 1 | in use: a slot whose owner died stays in use until somebody cleaned up after it. */
export const O_STATE_WORD = 0;
export const O_PID_WORD = 1;
export const O_THREAD_WORD = 2;
export const O_SINCE_WORD = 3; // 2 words, ms since 1970
export const O_PID_NAMESPACE_WORD = 5;
/** Head extent of the note of the batch that is under way; 0: none. */
export const O_NOTE_WORD = 6;
/** A backup copies the state of this epoch: what was retired later is not reused; 0: none. */
export const O_PINNED_EPOCH_WORD = 7;
/** 1 + the half of the redo log in which the owner has a range reserved that it may still write to; 0: none. */
export const O_APPENDING_WORD = 8;

export const CONTROL_ENTRIES_OFFSET = 524288;
export const CONTROL_ENTRY_SIZE = 64;
export const CONTROL_ENTRY_WORD_SHIFT = 4;
/** Behind the lock of an entry: one bit for each 448th of the extent, set when a record there was read. */
export const RECENCY_OFFSET = 8;
export const RECENCY_WORD = RECENCY_OFFSET / 4;
export const RECENCY_BITS = 448;
/** Entries in one mapping of the control file (64 MiB). */
export const CONTROL_REGION_SHIFT = 20;
export const CONTROL_REGION_MASK = (1 << CONTROL_REGION_SHIFT) - 1;

/** Lock word: owner slot (11 bits) | incarnation << 11 (16 bits) | waiters bit. 0: free. */
export const OWNER_SLOT_MASK = 0x7ff;
export const OWNER_INCARNATION_SHIFT = 11;
export const OWNER_INCARNATION_MASK = 0xffff;
export const OWNER_MASK = 0x7ffffff;
export const LOCK_WAITERS_BIT = 0x8000000;
/** In the checkpoint's lock: its sync is under way in the addon, which lets go of the lock. */
export const LOCK_SYNCING_BIT = 0x10000000;

// ---- Redo log: a header, two halves of entries ------------------------------------------------------------------------

/** 'mmapkvR\n'. */
export const REDO_MAGIC_0 = 0x70616d6d;
export const REDO_MAGIC_1 = 0x0a52766b;
export const REDO_VERSION = 1;
export const REDO_HEADER_SIZE = 4096;
/** Records of epoch e go to half e & 1. */
export const REDO_HALF_SIZE = 2097152;
export const L_MAGIC_WORD = 0; // 2 words
export const L_VERSION_WORD = 2;
export const L_CHECKSUM_WORD = 3;
export const L_STORE_ID_WORD = 4; // 4 words
/** The run that it belongs to: the data file's header names the same. */
export const L_CONTROL_ID_WORD = 8; // 4 words
export const L_HALF_SIZE_WORD = 12;
export const L_END_WORD = 13;

/** Entries begin at multiples of this. */
export const ENTRY_ALIGN = 64;
export const MAX_ENTRY_SIZE = 262144;
/** 'redo'. */
export const ENTRY_MAGIC = 0x6f646572;
export const J_MAGIC_WORD = 0;
/** Words of the entry, padding not included. */
export const J_WORDS_WORD = 1;
/** Over all other words of the entry, seeded with store, run and place. */
export const J_CHECKSUM_WORD = 2;
export const J_EPOCH_WORD = 3;
/** The durable epoch when it was appended: no older data file has to do with it. */
export const J_DURABLE_EPOCH_WORD = 4;
/** Operations of the entry: all or none of them count. */
export const J_COUNT_WORD = 5;
export const ENTRY_HEADER_WORDS = 6;

/** An operation: hash, sizes and type and sequence as in a record, then expiry, key and payload as in a record. */
export const Q_HASH_WORD = 0;
export const Q_SIZES_WORD = 1;
export const Q_TYPE_WORD = 2;
export const Q_SEQUENCE_WORD = 3;
export const REDO_OPERATION_WORDS = 4;

// ---- Bytes that stand for something in record locks (OFD), far past the end of either file ----------------------------

export const OPEN_LOCK_BYTE = 2 ** 48; // data file: whoever opens, creates, recovers or closes holds it
export const USE_LOCK_BYTE = 2 ** 48 + 1; // data file: each writable open holds it shared
export const REDO_LOCK_BYTE = 2 ** 48; // redo log: each open that has it holds it shared, who makes it anew alone
/** Control file: OWNER_LOCK_BYTE + slot is held by the owner of the slot for as long as it lives. */
export const OWNER_LOCK_BYTE = 2 ** 48;

export * from './layout-cache.js'; // the counters of all opens
export * from './layout-claims.js'; // what getOrCompute() needs: claims and failures
export * from './layout-events.js'; // what watch() needs: the ring of events

// ---- The chains above close ---------------------------------------------------------------------------------------

function layoutHolds(what: string, holds: boolean): void {
  if (!holds) throw new Error(`layout: ${what}`);
}
layoutHolds('extents of a region', REGION_EXTENTS === 1 << REGION_SHIFT && EXTENT_WORDS === 1 << EXTENT_WORD_SHIFT);
layoutHolds('header fits', H_END_WORD * 4 <= HEADER_SIZE && ROOT_OFFSET === 2 * HEADER_SIZE);
layoutHolds('root fits', (R_HOLE_COUNT_WORD + 1) * 4 <= DIRECTORY_LIST_OFFSET);
layoutHolds('directory list', DIRECTORY_LIST_OFFSET + 4 * DIRECTORY_LIST_COUNT <= DIRECTORY_ENTRIES_OFFSET);
layoutHolds('directory entries', DIRECTORY_ENTRIES_OFFSET + 4 * DIRECTORY_EXTENT_ENTRIES === EXTENT_SIZE);
layoutHolds('directory depth', DIRECTORY_LIST_COUNT * DIRECTORY_EXTENT_ENTRIES === 1 << MAX_DEPTH);
layoutHolds('segment header', (S_HAND_WORD + 1) * 4 <= INDEX_LIST_0_OFFSET);
layoutHolds('index list 0', INDEX_LIST_0_OFFSET + 4 * INDEX_LIST_COUNT === INDEX_LIST_1_OFFSET);
layoutHolds('index list 1', INDEX_LIST_1_OFFSET + 4 * INDEX_LIST_COUNT <= LOG_LIST_OFFSET);
layoutHolds('log list', LOG_LIST_OFFSET + 4 * LOG_LIST_COUNT === INLINE_INDEX_OFFSET);
layoutHolds('index bits', INDEX_LIST_COUNT << INDEX_EXTENT_SHIFT === 1 << MAX_INDEX_BITS && MAX_INDEX_BITS <= INDEX_BITS_MASK);
layoutHolds('record sizes', MAX_KEY_SIZE <= KEY_SIZE_MASK && MAX_RECORD_SIZE < 2 ** 17);
layoutHolds('a record fits in a note', OPERATION_HEADER_WORDS * 4 + MAX_RECORD_SIZE <= EXTENT_PAYLOAD_SIZE);
layoutHolds('entries of a note', (EXTENT_WORDS - N_ENTRIES_WORD) % NOTE_ENTRY_WORDS === 0 && EXTENT_HEADER_WORDS % NOTE_ENTRY_WORDS === 0);
layoutHolds('owner slots', OWNER_COUNT === OWNER_SLOT_MASK);
layoutHolds('claims', OWNERS_OFFSET + (OWNER_COUNT + 1) * OWNER_WORDS * 4 === CLAIMS_OFFSET);
layoutHolds('failures', FAILURES_OFFSET + FAILURE_COUNT * FAILURE_SIZE <= EVENTS_OFFSET);
layoutHolds('events', EVENTS_OFFSET + EVENT_COUNT * EVENT_SIZE === CONTROL_ENTRIES_OFFSET);
layoutHolds(
  'owner bits',
  OWNER_MASK === ((OWNER_INCARNATION_MASK << OWNER_INCARNATION_SHIFT) | OWNER_SLOT_MASK) && LOCK_WAITERS_BIT > OWNER_MASK,
);
layoutHolds('redo log', L_END_WORD * 4 <= REDO_HEADER_SIZE && ENTRY_HEADER_WORDS * 4 <= ENTRY_ALIGN && REDO_HALF_SIZE % ENTRY_ALIGN === 0);
layoutHolds('owner slot', O_CLEARING_WORD < OWNER_WORDS);
layoutHolds('state bits', OWNER_MASK < 2 ** (31 - KIND_OWNER_SHIFT));
