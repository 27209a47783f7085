/**
 * An HTTP server of several processes that share one cache.
 *
 *   GET /page/NAME   a page that takes half a second to render; whichever process renders it, it is rendered once for all
 *   GET /stats       how often pages were rendered and served, by all processes together
 *
 * Try it: load some pages, kill a worker (the X-Worker header names it) with kill -9, and load them again: they are still
 * there, another process takes its place, and neither it nor the others need to be told anything.
 */
import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { open } from 'mmapkv';
import { freshStorePath } from './store-path.mjs';

const port = Number(process.env.PORT ?? 3000);
const workers = Number(process.env.WORKERS ?? 4);

async function render(store, name) {
  store.increment('pages rendered');
  console.log(`process ${process.pid} renders ${name}`);
  await delay(500); // databases, templates ...
  return `<h1>${name}</h1><p>rendered by process ${process.pid} at ${new Date().toISOString()}</p>\n`;
}

async function answer(store, url) {
  if (url === '/stats') {
    const [rendered = 0, served = 0] = store.getMany(['pages rendered', 'pages served']);
    return [200, `${JSON.stringify({ rendered, served })}\n`];
  }
  const name = /^\/page\/(\w+)$/.exec(url)?.[1];
  if (name === undefined) return [404, 'try /page/NAME or /stats\n'];
  // One process renders, and the others wait for its result; if it is killed meanwhile, another takes over.
  const page = await store.getOrCompute(`page:${name}`, () => render(store, name), { ttl: 60_000 });
  store.increment('pages served');
  return [200, page];
}

if (cluster.isPrimary) {
  const path = freshStorePath();
  const fork = () => cluster.fork({ STORE: path });
  for (let i = 0; i < workers; i++) fork();
  let listening = 0;
  cluster.on('listening', (_, address) => {
    if (++listening === workers) console.log(`${workers} workers listen on http://127.0.0.1:${address.port}`);
  });
  let isEnding = false;
  cluster.on('exit', (worker, code, signal) => {
    if (isEnding) return;
    console.log(`worker ${worker.process.pid} ended (${signal ?? code}); another takes its place`);
    fork();
  });
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      isEnding = true;
      cluster.disconnect(() => process.exit());
    });
  }
} else {
  // A cache may be lost with the power: no checkpoints.
  const store = open(process.env.STORE, { durability: 'none' });
  const server = createServer(async (request, response) => {
    response.setHeader('X-Worker', process.pid);
    try {
      const [status, body] = await answer(store, request.url);
      response.writeHead(status).end(body);
    } catch (error) {
      response.writeHead(500).end(`${error.message}\n`);
    }
  });
  server.listen(port, '127.0.0.1');
}
