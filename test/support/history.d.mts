import type { Operation } from './linearizability.js';

export declare const FOREIGN: number;
export declare function readHistory(path: string, client: number): Map<number, Operation[]>;
