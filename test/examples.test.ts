/** The programs of examples/, run as a user runs them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { Agent, get, type IncomingHttpHeaders } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { until, within } from './support/processes.js';

const folder = fileURLToPath(new URL('../examples/', import.meta.url));
const place = mkdtempSync(join(tmpdir(), 'mmapkv-examples-'));
afterAll(() => rmSync(place, { recursive: true, force: true }));
const started = new Set<string>();

interface Example {
  process: ChildProcess;
  output: () => string;
  /** Exit code, once all its output has come. */
  ended: Promise<number | string | null>;
}

function start(name: string, env: NodeJS.ProcessEnv = {}): Example {
  started.add(name);
  const child = spawn(process.execPath, [name], {
    cwd: folder,
    env: { ...process.env, FOLDER: place, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  const ended = new Promise<number | string | null>((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
  // A cluster's workers end when their primary does.
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return { process: child, output: () => output, ended };
}

async function runToItsEnd(name: string): Promise<string> {
  const example = start(name);
  const code = await within(example.ended, 30_000, name);
  expect({ code, output: example.output() }).toMatchObject({ code: 0 });
  return example.output();
}

async function startServer(name: string, env: NodeJS.ProcessEnv): Promise<Example & { address: string }> {
  const example = start(name, { PORT: '0', ...env });
  const address = () => /listen on (http:\S+)/.exec(example.output())?.[1];
  await until(() => address() !== undefined || example.process.exitCode !== null, name).catch(() => {});
  if (address() === undefined) throw new Error(`no address in: ${example.output()}`);
  return { ...example, address: address()! };
}

/** Ends as by Ctrl-C, without complaints. */
async function stop(example: Example): Promise<void> {
  example.process.kill('SIGINT');
  const code = await within(example.ended, 10_000, 'the end of a server');
  expect({ code, output: example.output() }).toMatchObject({ code: 0 });
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/** Each request has a connection of its own, so that the requests reach all workers; null when it was cut off or not answered. */
function request(url: string): Promise<Answer | null> {
  return new Promise((resolve) => {
    // A connection that the primary was handing to a worker when that was killed may never be answered.
    const sent = get(url, { agent: new Agent({ keepAlive: false }), timeout: 10_000 }, (response) => {
      let body = '';
      response.on('data', (chunk) => {
        body += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }));
      response.on('error', () => resolve(null));
    });
    sent.on('timeout', () => sent.destroy());
    sent.on('error', () => resolve(null));
  });
}

const workerOf = (answer: Answer) => Number(answer.headers['x-worker']);

test('a cluster renders each page once for all, and goes on when a worker is killed while it renders', async () => {
  const server = await startServer('cluster-server.mjs', { WORKERS: '4' });
  const pages = ['a', 'b', 'c'];
  const first = await Promise.all(Array.from({ length: 24 }, (_, i) => request(`${server.address}/page/${pages[i % 3]}`)));
  for (const [i, answer] of first.entries()) {
    expect(answer).toMatchObject({ status: 200, body: expect.stringContaining(`<h1>${pages[i % 3]}</h1>`) });
    expect(answer!.body).toBe(first[i % 3]!.body);
  }
  const workers = new Set(first.map((answer) => workerOf(answer!)));
  expect(workers.size).toBeGreaterThan(1);
  expect(JSON.parse((await request(`${server.address}/stats`))!.body)).toEqual({ rendered: 3, served: 24 });

  // Eight ask for a new page. The worker that renders it is killed, and another of those that wait renders it.
  const asked = Array.from({ length: 8 }, () => request(`${server.address}/page/d`));
  const renderers = () => [...server.output().matchAll(/process (\d+) renders d/g)].map(([, pid]) => Number(pid));
  await until(() => renderers().length > 0, 'page d is being rendered');
  const victim = renderers()[0]!;
  process.kill(victim, 'SIGKILL');
  const answers = (await Promise.all(asked)).filter((answer) => answer !== null);
  expect(answers.length).toBeGreaterThan(0);
  expect(renderers()).toHaveLength(2);
  for (const answer of answers) expect(answer).toMatchObject({ status: 200, body: answers[0]!.body });
  expect(answers[0]!.body).toContain(`process ${renderers()[1]}`);
  await until(() => server.output().includes(`worker ${victim} ended (SIGKILL)`), 'the primary notices');

  // The one that takes its place finds everything that there was.
  await until(async () => {
    const answer = await request(`${server.address}/page/a`);
    expect(answer).toMatchObject({ status: 200, body: first[0]!.body });
    return !workers.has(workerOf(answer!));
  }, 'the new worker answers');
  await stop(server);
});

test('threads take their jobs from the store, each job once', async () => {
  const output = await runToItsEnd('worker-threads.mjs');
  expect(output).toMatch(/^200 results: 148933 primes below 2000000$/m);
  const done = [...output.matchAll(/^thread \d did (\d+) of 200 jobs$/gm)].map(([, count]) => Number(count));
  expect(done.reduce((sum, count) => sum + count, 0)).toBe(200);
});

test('what one process computes for cache-manager or puts into Keyv, another finds', async () => {
  expect((await runToItsEnd('keyv-cache-manager.mjs')).trimEnd().split('\n')).toEqual([
    'parent: asks the weather service about Lisbon',
    'parent: {"city":"Lisbon","sky":"clear","askedBy":"parent"}',
    'child: {"city":"Lisbon","sky":"clear","askedBy":"parent"}',
    'child: asks the weather service about Oslo',
    'child: {"city":"Oslo","sky":"clear","askedBy":"child"}',
    'parent: {"city":"Oslo","sky":"clear","askedBy":"child"}',
    'parent: session 17 is now {"user":"Ada","seen":true}',
    'parent: after weather.clear(): Lisbon is undefined, session 17 is there',
  ]);
});

test('the rate limiter counts the requests of all workers together, exactly', async () => {
  const server = await startServer('rate-limiter.mjs', { WORKERS: '3', LIMIT: '40', WINDOW: '60000' });
  const answers = (await Promise.all(Array.from({ length: 120 }, () => request(server.address)))) as Answer[];
  const ofStatus = (status: number) => answers.filter((answer) => answer.status === status);
  expect(ofStatus(200)).toHaveLength(40);
  expect(ofStatus(429)).toHaveLength(80);
  expect(new Set(ofStatus(200).map(({ body }) => body)).size).toBeGreaterThan(1);
  expect(
    ofStatus(200)
      .map(({ headers }) => Number(headers['ratelimit-remaining']))
      .sort((a, b) => a - b),
  ).toEqual([...Array(40).keys()]);
  const seconds = ofStatus(429).map(({ headers }) => Number(headers['retry-after']));
  for (const wait of seconds) expect(wait).toBeGreaterThan(0);
  expect(Math.max(...seconds)).toBeLessThanOrEqual(60);
  await stop(server);
});

test('the rate limiter lets in again when the window is over', async () => {
  const server = await startServer('rate-limiter.mjs', { WORKERS: '1', LIMIT: '1', WINDOW: '500' });
  expect((await request(server.address))?.status).toBe(200);
  await until(async () => (await request(server.address))?.status === 429, 'the limit');
  await until(async () => (await request(server.address))?.status === 200, 'the next window');
  await stop(server);
});

test('all examples are tried here, and leave nothing behind', () => {
  const programs = readdirSync(folder).filter((name) => name.endsWith('.mjs') && name !== 'store-path.mjs');
  expect([...started].sort()).toEqual(programs.sort());
  const readme = readFileSync(join(folder, 'README.md'), 'utf8');
  for (const name of programs) expect(readme).toContain(`node examples/${name}`);
  expect(readdirSync(place)).toEqual([]);
});
