/** A process that calls what it is asked to (peers/caller.mjs), with system calls that fail or without. */
import { expect } from 'vitest';
import { type Message, type Peer, startPeer } from './processes.js';

/** Nobody makes a checkpoint of its own accord. */
export const QUIET = { checkpointInterval: 3_600_000, segmentSize: 65536 };

export class Caller {
  readonly #peer: Peer;

  private constructor(peer: Peer) {
    this.#peer = peer;
  }

  /** A process that has the store open; with `options` null it has not yet. */
  static async start(
    path: string,
    { options = QUIET, faults, shell }: { options?: object | null; faults?: { env: Record<string, string> }; shell?: string } = {},
  ): Promise<Caller> {
    const peer = startPeer('caller', { path, options }, { env: faults?.env ?? {}, ...(shell !== undefined && { shell }) });
    expect(await peer.hear()).toBe('ready');
    return new Caller(peer);
  }

  async call(...message: unknown[]): Promise<Message> {
    this.#peer.say(message);
    return await this.#peer.hear();
  }

  /** The call has to succeed. */
  async value(...message: unknown[]): Promise<Message> {
    const answer = await this.call(...message);
    expect(answer, String(message[0])).toHaveProperty('value');
    return answer.value;
  }

  kill(): Promise<unknown> {
    this.#peer.kill('SIGKILL');
    return this.#peer.ended();
  }
}

/** What every call that asks for durability answers after a sync has failed with EIO. */
export const failed = { code: 'ERR_STORE_SYNC_FAILED', errno: 'EIO' };

/** Every way to ask for durability is refused, by everybody. */
export async function expectSuspect(callers: Caller[]): Promise<void> {
  for (const caller of callers) {
    for (const way of ['sync', 'syncNow', 'sync']) expect(await caller.call(way)).toMatchObject(failed);
    expect(await caller.value('many syncs', 3)).toEqual(new Array(3).fill(failed.code));
  }
}
