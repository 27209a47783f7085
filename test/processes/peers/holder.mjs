// Opens the store and does one thing on each request. With a failpoint "=stop" it stops itself in the middle.
import { spawn } from 'node:child_process';
import { deaf, hear, open, params, say } from '../../support/peer.mjs';

const store = open(params.path, params.options ?? {});
say('ready');
for (let message = await hear(); message !== undefined; message = await hear()) {
  const [what, key, value] = message;
  try {
    if (what === 'set') store.set(key, value);
    else if (what === 'state') say({ state: [...store.keys({ prefix: key })] });
    else if (what === 'clear') store.clear();
    else if (what === 'batch') {
      const batch = store.batch();
      for (const entry of key) batch.set(...entry);
      batch.commit();
    } else if (what === 'get') say({ value: store.get(key) });
    else if (what === 'spawn') {
      // A child that lives on: were the descriptors inherited, so would the owner's lock be.
      const child = spawn('sleep', ['60'], { stdio: 'ignore', detached: true });
      child.unref();
      say({ child: child.pid });
    } else if (what === 'close') {
      store.close();
      say('closed');
      break;
    }
    if (what === 'set' || what === 'batch' || what === 'clear') say('done');
  } catch ({ code, pid, message: text }) {
    say({ code, pid, text });
  }
}
deaf();
