/** How commands open stores: reading ones never create, and ask for no more than the right to read. */
import { StoreError } from '../errors.js';
import { open, type Store } from '../store.js';

/** Opens to read. Only a store that needs recovery (an unclean copy, or after a power loss) is opened for writing, which recovers it. */
export function openToRead(path: string): Store {
  try {
    return open(path, { readOnly: true });
  } catch (error) {
    if (!(error instanceof StoreError) || error.code !== 'ERR_STORE_NEEDS_RECOVERY') throw error;
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
  try {
    return use(store);
  } finally {
    store.close();
  }
}
