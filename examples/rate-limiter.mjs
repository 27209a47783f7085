/**
 * An Express application of several processes whose rate limit counts the requests of all of them.
 *
 * increment() is atomic among all processes, and the ttl counts when it creates the counter: so a counter is a window of fixed
 * length, of which nobody has to sweep up the remains.
 */
import cluster from 'node:cluster';
import express from 'express';
import { open } from 'mmapkv';
import { freshStorePath } from './store-path.mjs';

const limit = Number(process.env.LIMIT ?? 100); // requests of one address ...
const windowLength = Number(process.env.WINDOW ?? 60_000); // ... in so many ms
const port = Number(process.env.PORT ?? 3000);
const workers = Number(process.env.WORKERS ?? 4);

/** Works with Express, and with everything that has its way of middleware. */
function rateLimiter(store) {
  return (request, response, next) => {
    const key = `rate:${request.socket.remoteAddress}`;
    const count = store.increment(key, 1, { ttl: windowLength });
    response.setHeader('RateLimit-Limit', limit);
    response.setHeader('RateLimit-Remaining', Math.max(0, limit - count));
    if (count <= limit) return next();
    response.setHeader('Retry-After', Math.ceil((store.getRemainingTTL(key) ?? 0) / 1000));
    response.statusCode = 429;
    response.end('too many requests\n');
  };
}

if (cluster.isPrimary) {
  const path = freshStorePath();
  for (let i = 0; i < workers; i++) cluster.fork({ STORE: path });
  let listening = 0;
  cluster.on('listening', (_, address) => {
    if (++listening === workers) console.log(`${workers} workers listen on http://127.0.0.1:${address.port}`);
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => cluster.disconnect(() => process.exit()));
} else {
  const store = open(process.env.STORE, { durability: 'none' });
  const application = express();
  application.use(rateLimiter(store));
  application.get('/', (_, response) => response.send(`hello from process ${process.pid}\n`));
  application.listen(port, '127.0.0.1');
}
