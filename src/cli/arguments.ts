/** Words of the command line to what they mean; a UsageError says what was expected. */
import { UsageError } from './command.js';

const unitsOfTime = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** A duration in ms: '30s', '1.5h', or a bare number of ms. */
export function parseDuration(option: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d)?$/.exec(text);
  const duration = match === null ? 0 : Number(match[1]) * unitsOfTime[(match[2] ?? 'ms') as keyof typeof unitsOfTime];
  if (!(duration > 0 && Number.isFinite(duration))) {
    throw new UsageError(`${option} must be a duration above 0, such as 30s (units: ms, s, m, h, d), got "${text}"`);
  }
  return duration;
}

/** A whole number, 0 or more. */
export function parseCount(option: string, text: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(count)) throw new UsageError(`${option} must be a whole number, 0 or more, got "${text}"`);
  return count;
}

/** A decimal number: '3', '-0.5', '1e6'. */
export function parseNumber(name: string, text: string): number {
  const number = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isFinite(number)) throw new UsageError(`${name} must be a number, got "${text}"`);
  return number;
}

export function oneOf<T extends string>(option: string, text: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === text);
  if (found === undefined) throw new UsageError(`${option} must be one of ${allowed.join(', ')}, got "${text}"`);
  return found;
}
