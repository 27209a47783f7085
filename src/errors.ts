import { constants } from 'node:os';

/** Every code that a failure of a store can carry, and what its class of failure means. Stable: tests and users match on them. */
export type StoreErrorCode =
  | 'ERR_STORE_NOT_FOUND'
  | 'ERR_STORE_NOT_A_STORE'
  | 'ERR_STORE_FORMAT'
  | 'ERR_STORE_CORRUPT'
  | 'ERR_STORE_TRUNCATED'
  | 'ERR_STORE_PERMISSION'
  | 'ERR_STORE_READ_ONLY'
  | 'ERR_STORE_CLOSED'
  | 'ERR_STORE_FULL'
  | 'ERR_STORE_NO_SPACE'
  | 'ERR_STORE_NO_MEMORY'
  | 'ERR_STORE_LOCK_TIMEOUT'
  | 'ERR_STORE_COMPUTE_TIMEOUT'
  | 'ERR_STORE_KEY_TOO_LARGE'
  | 'ERR_STORE_VALUE_TOO_LARGE'
  | 'ERR_STORE_SYNC_FAILED'
  | 'ERR_STORE_NEEDS_RECOVERY'
  | 'ERR_STORE_UNSUPPORTED';

export interface StoreErrorOptions {
  /** The store's file. */
  path?: string | undefined;
  /** Facts, which become properties of the error and are named in its message. */
  facts?: Readonly<Record<string, string | number | boolean | undefined>>;
  cause?: unknown;
}

/**
 * A failure of the store, as opposed to a wrong argument (TypeError, RangeError). The message states the facts, then
 * the remedy; `code` is stable, the facts are also properties of the error.
 */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly code: StoreErrorCode;
  readonly path: string | undefined;

  constructor(code: StoreErrorCode, message: string, options: StoreErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.path = options.path;
    if (options.facts !== undefined) {
      for (const [name, value] of Object.entries(options.facts)) {
        if (value !== undefined && !(name in this)) Object.defineProperty(this, name, { value, enumerable: true });
      }
    }
  }
}

/** Builds a StoreError whose message ends in its facts: "what happened: name=value, ...; remedy". */
export function storeError(
  code: StoreErrorCode,
  path: string | undefined,
  what: string,
  facts: Readonly<Record<string, string | number | boolean | undefined>> = {},
  remedy = '',
  cause?: unknown,
): StoreError {
  const named = Object.entries({ path, ...facts })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value}`)
    .join(', ');
  const message = `${what}${named === '' ? '' : `: ${named}`}${remedy === '' ? '' : `; ${remedy}`}`;
  return new StoreError(code, message, { path, facts, cause });
}

/** 'EIO' for 5. */
export function errnoName(errno: number): string {
  const found = Object.entries(constants.errno).find(([, number]) => number === Math.abs(errno));
  return found === undefined ? String(errno) : found[0];
}

/** The code of a failed system call ('ENOSPC'), or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && !code.startsWith('ERR_') ? code : undefined;
}

/** Turns the failure of a system call on `path` into a StoreError; any other error is returned as it is. */
export function fromSystemError(error: unknown, path: string, doing: string): Error {
  if (error instanceof StoreError || !(error instanceof Error)) return error as Error;
  const code = systemCode(error);
  const { syscall } = error as NodeJS.ErrnoException;
  const facts = { syscall, errno: code };
  if (syscall === 'fdatasync' || syscall === 'fsync' || syscall === 'pwritev2') {
    return storeError('ERR_STORE_SYNC_FAILED', path, `a sync has failed (${doing})`, facts, 'look at the disk', error);
  }
  switch (code) {
    case 'ENOENT':
      return storeError(
        'ERR_STORE_NOT_FOUND',
        path,
        `no such store (${doing})`,
        facts,
        'check the path: a store is made by an open for writing (create: true), by "mmapkv put" or import, in a folder that exists',
        error,
      );
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return storeError(
        'ERR_STORE_PERMISSION',
        path,
        `permission denied (${doing})`,
        facts,
        'check the owner and mode of the file, of its control file (.lock) and of its folder; to read, the right to read the file is enough (readOnly)',
        error,
      );
    case 'ELOOP':
      return storeError('ERR_STORE_NOT_A_STORE', path, `the path is a symbolic link (${doing})`, facts, 'name the file itself', error);
    case 'EISDIR':
    case 'ENOTDIR':
    case 'ENXIO':
    case 'ENODEV':
      return storeError('ERR_STORE_NOT_A_STORE', path, `not a regular file (${doing})`, facts, 'name a regular file', error);
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return storeError(
        'ERR_STORE_NO_SPACE',
        path,
        `no space is left for the store (${doing})`,
        facts,
        `${code === 'EFBIG' ? 'raise the limit of the size of a file (ulimit -f)' : 'make room on its file system'}; reads and deletes still work`,
        error,
      );
    case 'ENOMEM':
    case 'EMFILE':
    case 'ENFILE':
    case 'EAGAIN':
      return storeError(
        'ERR_STORE_NO_MEMORY',
        path,
        `the system is out of memory, mappings or descriptors (${doing})`,
        facts,
        'raise the limit (ulimit -v, ulimit -n, vm.max_map_count) or close other stores',
        error,
      );
    case 'EFAULT':
      return storeError(
        'ERR_STORE_TRUNCATED',
        path,
        `the file is shorter than the store, or a page of it cannot be read (${doing})`,
        facts,
        'restore it from a backup, or save what is left with "mmapkv export --salvage"',
        error,
      );
    case 'EOPNOTSUPP':
    case 'ENOSYS':
      return storeError(
        'ERR_STORE_UNSUPPORTED',
        path,
        `the file system or kernel does not support this (${doing})`,
        facts,
        'use a local file system such as ext4, xfs, btrfs or tmpfs',
        error,
      );
    case 'ENAMETOOLONG':
      return storeError(
        'ERR_STORE_UNSUPPORTED',
        path,
        `the path is too long for the file system (${doing})`,
        facts,
        'use a shorter one',
        error,
      );
    case 'EIO':
      return storeError('ERR_STORE_CORRUPT', path, `the disk cannot be read or written (${doing})`, facts, 'look at the disk', error);
    default:
      return storeError('ERR_STORE_UNSUPPORTED', path, `a system call failed (${doing})`, facts, 'see the cause', error);
  }
}
