export const DEEP_OPTIONS: { segmentSize: number; hash: (key: Uint8Array) => number };
