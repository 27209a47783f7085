/**
 * SIGKILL at every named point of the protocols (see src/failpoints.ts): a writer runs into the point beside somebody
 * who uses the same store. The others go on within a second, every acknowledged write is there, check() is clean.
 */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { open } from '../../dist/index.js';
import { Bystander, killAt } from '../support/kills.js';
import { freshFolder, startPeer } from '../support/processes.js';
import { replayable } from '../support/random.js';

interface Scenario {
  workload: string;
  /** The kill comes at a passage from 1 to this one. */
  most: number;
  /** Somebody has the store open all the while. */
  beside: boolean;
  segmentSize?: number;
  prepare?: 'nothing' | 'store' | 'store without control file';
}

const mixed = (most: number): Scenario => ({ workload: 'mixed', most, beside: true });
const large = (most: number): Scenario => ({ workload: 'large', most, beside: true });
const tiny = (most: number): Scenario => ({ workload: 'tiny', most, beside: false, segmentSize: 2 ** 20 });
const alone: Scenario = { workload: 'reopen', most: 1, beside: false, prepare: 'store' };
const creating: Scenario = { workload: 'mixed', most: 1, beside: false, prepare: 'nothing' };
const withoutControl: Scenario = { workload: 'reopen', most: 1, beside: false, prepare: 'store without control file' };

const scenarios: Record<string, Scenario> = {
  'put.pending': large(10),
  'put.written': mixed(300),
  'put.tagged': mixed(300),
  'put.published': mixed(300),
  'put.tailed': mixed(300),
  'put.counted': mixed(300),
  'delete.pending': large(5),
  'delete.written': mixed(30),
  'delete.published': mixed(30),
  'delete.tailed': mixed(30),
  'value.retired': large(10),
  'log.listed': mixed(8),
  'log.counted': mixed(8),
  'log.attached': mixed(8),
  'index.reserved': tiny(4),
  'index.built': tiny(4),
  'index.published': tiny(4),
  'index.attached': tiny(4),
  'large.reserved': large(10),
  'large.written': large(10),
  'large.listed': large(10),
  'large.entered': large(10),
  'rebuild.reserved': mixed(12),
  'rebuild.copied': mixed(12),
  'rebuild.built': mixed(12),
  'rebuild.noted': mixed(12),
  'rebuild.committed': mixed(12),
  'rebuild.published': mixed(12),
  'rebuild.released': mixed(12),
  'rebuild.attached': mixed(12),
  // Alone: the one doubling that surely comes might be somebody else's.
  'directory.copied': { ...mixed(1), beside: false },
  'directory.doubled': { ...mixed(1), beside: false },
  'directory.entry': mixed(10),
  'extents.taken': mixed(40),
  'extents.unlinked': mixed(20),
  'extents.retired': mixed(40),
  'extents.quarantined': mixed(40),
  'extents.released': mixed(40),
  'extents.freed': mixed(40),
  'extents.linked': mixed(40),
  'growth.control': mixed(2),
  'growth.allocated': mixed(2),
  'growth.populated': mixed(2),
  'growth.published': mixed(2),
  'create.written': creating,
  'create.synced': creating,
  'create.linked': creating,
  'control.opened': withoutControl,
  'control.allocated': withoutControl,
  'control.written': withoutControl,
  'control.named': alone,
  'owner.locked': alone,
  'owner.left': alone,
  'open.claimed': alone,
  'open.marked': alone,
  'open.recovered': alone,
  'open.used': alone,
  'close.settled': alone,
  'close.unused': alone,
  'close.synced': alone,
  'close.marked': alone,
  'hole.stated': { workload: 'compact', most: 40, beside: true },
  'hole.unlinked': { workload: 'compact', most: 40, beside: true },
  'hole.linked': { workload: 'compact', most: 40, beside: true },
  'hole.filled': { workload: 'compact', most: 10, beside: true },
  'checkpoint.begun': { workload: 'sync', most: 20, beside: true },
  'checkpoint.drained': { workload: 'sync', most: 20, beside: true },
};

/** Points that only somebody passes who repairs what a dead one left. */
const repairs = [
  'repair.sealed',
  'repair.counted',
  'repair.pending',
  'repair.replaced',
  'allocator.quarantined',
  'allocator.freed',
  'cleanup.locks',
  'cleanup.seized',
  'cleanup.resolved',
  'cleanup.done',
  'owner.cleaned',
];

/** Points that have a test of their own: see kill-directory.test.ts for a directory of more than 8,192 entries. */
const elsewhere = [
  'directory.listed',
  // kill-batch.test.ts
  'batch.reserved',
  'batch.written',
  'batch.locked',
  'batch.listed',
  'batch.noted',
  'batch.committed',
  'batch.applied',
  'batch.segment',
  'batch.published',
  'batch.closed',
  'batch.cleared',
  'batch.attached',
  'note.found',
  'note.applied',
  'note.done',
  'cleanup.noted',
  // counts.test.ts
  'counts.noted',
  // eviction.test.ts
  'evict.waiting',
  // sweep.test.ts
  'sweep.begun',
  'sweep.locked',
  'sweep.swept',
  'sweep.lowered',
  // watch.test.ts
  'event.ticket',
  'event.claimed',
  'event.filled',
  'event.rest',
  'event.done',
  'event.waking',
  'event.cleared',
  'clear.segment',
  'watch.named',
  'watch.unnamed',
  // compute.test.ts
  'compute.claimed',
  'compute.confirmed',
  'compute.stored',
  // kill-recovery.test.ts
  'recovery.found',
  'recovery.segment',
  'recovery.directory',
  'recovery.root',
  'open.synced',
  // kill-backup.test.ts
  'backup.begun',
  'backup.pinned',
  'backup.durable',
  'backup.copying',
  'backup.copied',
  'backup.recovered',
  'backup.named',
  // kill-redo.test.ts
  'redo.zeroed',
  'redo.made',
  'redo.reserved',
  'redo.appended',
  'redo.leading',
  'redo.synced',
  'redo.released',
  'recovery.redone',
  // A reader's, who holds nothing: races.test.ts
  'value.listed',
];

test('every failpoint of the source has its kill', () => {
  const folder = new URL('../../src/', import.meta.url);
  const names = new Set<string>();
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.ts')) continue;
    for (const [, name] of readFileSync(new URL(file, folder), 'utf8').matchAll(/failpoint\('([\w.]+)'\)/g)) names.add(name!);
  }
  expect([...Object.keys(scenarios), ...repairs, ...elsewhere].sort()).toEqual([...names].sort());
});

function prepare(path: string, how: Scenario['prepare']): void {
  if (how === undefined || how === 'nothing') return;
  const store = open(path, { segmentSize: 65536 });
  store.set('before', 1);
  store.close();
  if (how === 'store without control file') rmSync(`${path}.lock`);
}

test('a kill at any point harms nobody else and loses nothing', { timeout: 120_000 }, async () => {
  const random = replayable('kill-points');
  const bystander = new Bystander();
  const folder = freshFolder();
  for (const [name, { workload, most, beside, segmentSize, prepare: how }] of Object.entries(scenarios)) {
    const path = join(folder, 'store');
    prepare(path, how);
    await killAt(bystander, {
      path,
      seed: random.next(),
      workload,
      segmentSize,
      beside,
      failpoints: `${name}=kill@${1 + random.below(most)}`,
    });
    for (const file of readdirSync(folder)) rmSync(join(folder, file));
  }
  await bystander.end();
});

/** Where the first one dies so that somebody passes each of the points of repair. */
const firsts = [
  'put.pending',
  'put.written',
  'put.published',
  'delete.written',
  'large.written',
  'log.listed',
  'index.built',
  'rebuild.reserved',
];
firsts.push(
  'rebuild.built',
  'rebuild.committed',
  'rebuild.published',
  'extents.taken',
  'extents.retired',
  'extents.released',
  'extents.freed',
);

/** Kills at `first`, then whoever opens the store next at `second`; true when that one passed the point. */
async function killTwice(
  bystander: Bystander,
  folder: string,
  seed: number,
  first: string,
  second: string,
  losesControl = false,
): Promise<boolean> {
  const path = join(folder, 'store');
  const { workload, segmentSize } = scenarios[first]!;
  let isHit = false;
  await killAt(bystander, {
    path,
    seed,
    workload,
    segmentSize,
    beside: false,
    failpoints: `${first}=kill@${1 + (seed % scenarios[first]!.most)}`,
    async meanwhile() {
      if (losesControl) rmSync(`${path}.lock`);
      const { signal, code, errors } = await startPeer('opener', { path }, { failpoints: `${second}=kill` }).ended();
      if (signal !== 'SIGKILL') expect({ first, second, code, errors }).toEqual({ first, second, code: 0, errors: '' });
      isHit = signal === 'SIGKILL';
    },
  });
  for (const file of readdirSync(folder)) rmSync(join(folder, file));
  return isHit;
}

const leadsTo: Record<string, string[]> = {
  'repair.sealed': ['put.written'],
  'repair.counted': ['put.published'],
  'repair.pending': ['put.pending'],
  'repair.replaced': ['rebuild.committed'],
  'allocator.quarantined': ['extents.retired'],
  'allocator.freed': ['extents.freed'],
  'cleanup.locks': ['delete.written'],
  'cleanup.seized': ['rebuild.built'],
  'cleanup.resolved': ['rebuild.reserved'],
  'cleanup.done': ['large.written'],
  'owner.cleaned': ['extents.taken'],
  'extents.retired': ['rebuild.published'],
  'extents.freed': ['rebuild.reserved'],
  'directory.entry': ['rebuild.committed'],
};

/** Without a control file, what a dead one left is found from the data file alone, through these points. */
const leadsToWithoutControl: Record<string, string[]> = {
  'repair.sealed': ['put.written'],
  'repair.counted': ['put.published'],
  'allocator.quarantined': ['extents.retired'],
  'allocator.freed': ['extents.freed'],
  'cleanup.locks': ['rebuild.committed'],
  'cleanup.resolved': ['rebuild.reserved'],
  'cleanup.done': ['large.written'],
};

test.for([
  ['a kill in the middle of the repair of a kill harms nobody either', leadsTo, false],
  ['nor does it when the control file was lost after the first kill', leadsToWithoutControl, true],
] as const)('%s', { timeout: 600_000 }, async ([name, pairs, losesControl]) => {
  const random = replayable(name);
  const bystander = new Bystander();
  const folder = freshFolder();
  const isLong = process.env.MMAPKV_KILLS !== undefined;
  const missed: string[] = [];
  for (const [second, starts] of Object.entries(pairs)) {
    let hits = 0;
    // The long version takes every pair, the short one a start that leads there.
    for (const first of isLong ? firsts : starts)
      if (await killTwice(bystander, folder, random.next(), first, second, losesControl)) hits++;
    if (hits === 0) missed.push(second);
  }
  expect(missed).toEqual([]);
  await bystander.end();
});
