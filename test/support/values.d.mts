export function hashText(text: string): number;
export function random(seed: number): { next(): number; below(limit: number): number };
export function makeValue(key: string, writer: number, counter: number): string | Buffer;
export function verifyValue(key: string, value: unknown): { writer: number; counter: number };
