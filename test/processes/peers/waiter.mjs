// Does with getOrCompute what it is told: [what its function does, key, options]. Says 'computing' when the function
// begins, then what came of the call.
import { deaf, hear, open, params, say } from '../../support/peer.mjs';

const store = open(params.path);
const fates = {
  value: () => `by ${params.name}`,
  hang: () => new Promise(() => {}),
  block() {
    for (;;) Atomics.load(new Int32Array(4), 0);
  },
  'block until the key is there'(key) {
    while (!store.has(key));
    return `by ${params.name}`;
  },
  'throw when told': async () => {
    await hear();
    throw new Error(`no luck, says ${params.name}`);
  },
  'value when told': async () => {
    await hear();
    return `by ${params.name}`;
  },
};
say('ready');
for (let message = await hear(); message !== undefined && message !== 'end'; message = await hear()) {
  const [fate, key, options] = message;
  const fn = (wanted) => {
    say('computing');
    return fates[fate](wanted);
  };
  try {
    const running = store.getOrCompute(key, fn, options);
    say('called');
    say({ value: await running });
  } catch (error) {
    say({ error: error.message, code: error.code });
  }
}
store.close();
deaf();
