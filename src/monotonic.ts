/** ms of a clock that all processes share and nobody sets (CLOCK_MONOTONIC), as 32 bits that wrap. */
export function monotonic(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return (Math.imul(seconds, 1000) + Math.floor(nanoseconds / 1e6)) | 0;
}
