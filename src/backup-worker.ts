/** The worker thread of backup(): opens the copy, which recovers it, and closes it clean. */
import { parentPort, workerData } from 'node:worker_threads';
import { StoreError } from './errors.js';
import { closeSession, openSession } from './open.js';
import { normalizeOptions } from './options.js';

try {
  const session = openSession(workerData as string, normalizeOptions(workerData, { create: false }));
  closeSession(session);
  if (session.leftBecause !== undefined) throw session.leftBecause;
} catch (error) {
  if (!(error instanceof StoreError)) throw error;
  parentPort!.postMessage({ code: error.code, message: error.message });
}
