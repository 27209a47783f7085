/** How commands open stores: reading ones never create, and ask for no more than the right to read. */
import { StoreError, storeError } from '../errors.js';
import { recoveryProgress } from '../recovery.js';
import { open, type Store } from '../store.js';
import type { Recovery } from '../types.js';
import { printable, writeError } from './output.js';

// An open that has to recover says so: what is missing afterwards should surprise nobody.
recoveryProgress.ended = (path, recovery) => {
  if (process.stderr.isTTY) writeError('\r\x1b[K');
  writeError(`mmapkv: ${printable(describeRecovery(path, recovery))}\n`);
};
recoveryProgress.report = (share) => {
  if (process.stderr.isTTY) writeError(`\rrecovering ${Math.floor(share * 100)} %`);
};

export function describeRecovery(path: string, { outcome, epoch, entries, dropped, redone }: Recovery): string {
  if (outcome === 'emptied') return `${path} was in use with durability 'none' when the machine stopped: it begins anew, empty`;
  const notes = [`${entries} entries`, ...(redone > 0 ? [`${redone} later writes redone`] : []), `${dropped} newer records dropped`];
  return `recovered ${path} to checkpoint ${epoch}: ${notes.join(', ')}`;
}

export function needsRecovery(error: unknown): error is StoreError {
  return error instanceof StoreError && error.code === 'ERR_STORE_NEEDS_RECOVERY';
}

/** Opens to read. Only a store that needs recovery (an unclean copy, or after a power loss) is opened for writing, which recovers it. */
export function openToRead(path: string): Store {
  try {
    return open(path, { readOnly: true });
  } catch (error) {
    if (!needsRecovery(error)) throw error;
    return openToRecover(path, error);
  }
}

/** Who may only read is told what the store needs: that a write was refused, which nobody had asked for, says nothing. */
function openToRecover(path: string, needed: StoreError): Store {
  try {
    return open(path, { create: false });
  } catch (error) {
    if (!(error instanceof StoreError) || error.code !== 'ERR_STORE_PERMISSION') throw error;
    throw storeError(
      needed.code,
      needed.path,
      'the store must be recovered, since it was not closed before a reboot or is a copy of one in use, and may not be written here',
      // What the system said, and to what.
      { syscall: (error as { syscall?: string }).syscall, errno: (error as { errno?: string }).errno },
      'let "mmapkv stat" recover it where it may be written, or read it with "mmapkv export --salvage"',
      error.cause,
    );
  }
}

/** Opens, uses, closes. */
export function reading<T>(path: string, use: (store: Store) => T): T {
  return closing(openToRead(path), use);
}

export function writing<T>(path: string, create: boolean, use: (store: Store) => T): T {
  return closing(open(path, { create }), use);
}

function closing<T>(store: Store, use: (store: Store) => T): T {
  let result: T;
  try {
    result = use(store);
  } catch (error) {
    store.close();
    throw error;
  }
  if (!(result instanceof Promise)) store.close();
  return result instanceof Promise ? (result.finally(() => store.close()) as T) : result;
}
