/** The worker thread of backup(): opens the copy, which recovers it, and closes it clean. */
import { parentPort, workerData } from 'node:worker_threads';
import { StoreError, type StoreErrorCode, systemCode } from './errors.js';
import { closeSession, openSession } from './open.js';
import { normalizeOptions } from './options.js';

/** A failure of the store, as what can be sent to another thread. */
export interface Told {
  code: StoreErrorCode;
  message: string;
  facts: Record<string, string | number | boolean>;
  /** What the system said, if it was the system. */
  system: { code: string; message: string; errno: number; syscall: string } | undefined;
}

try {
  const session = openSession(workerData as string, normalizeOptions(workerData, { create: false }));
  closeSession(session);
  if (session.leftBecause !== undefined) throw session.leftBecause;
} catch (error) {
  if (!(error instanceof StoreError)) throw error;
  const { name: _name, code, path: _path, ...facts } = { ...error };
  parentPort!.postMessage({ code, message: error.message, facts, system: systemOf(error.cause) } as Told);
}

function systemOf(cause: unknown): Told['system'] {
  if (!(cause instanceof Error) || systemCode(cause) === undefined) return undefined;
  const { code, message, errno, syscall } = cause as NodeJS.ErrnoException;
  return { code: code!, message, errno: errno!, syscall: syscall! };
}
