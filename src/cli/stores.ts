/** How commands open stores: reading ones never create, and ask for no more than the right to read. */
import { StoreError } from '../errors.js';
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

export function needsRecovery(error: unknown): boolean {
  return error instanceof StoreError && error.code === 'ERR_STORE_NEEDS_RECOVERY';
}

/** Opens to read. Only a store that needs recovery (an unclean copy, or after a power loss) is opened for writing, which recovers it. */
export function openToRead(path: string): Store {
  try {
    return open(path, { readOnly: true });
  } catch (error) {
    if (!needsRecovery(error)) throw error;
    return open(path, { create: false });
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
