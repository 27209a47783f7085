// What a process or thread of the tests uses of the store: the built package, as one file when a test starts it (see one-file.ts).
export const { open, StoreError } = await import(process.env.MMAPKV_TEST_STORE ?? '../../dist/index.js');
