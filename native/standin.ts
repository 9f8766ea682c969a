// Which device tensors without data (device `meta`) stand for.
let meant: string | null = null;

/** @internal Runs `fn` (synchronous) with tensors without data standing for ones on `device`. */
export function standingFor<T>(device: string, fn: () => T): T {
  const before = meant;
  meant = device;
  try {
    return fn();
  } finally {
    meant = before;
  }
}

/** @internal The device whose operators are meant for a tensor on `device`. */
export const meantBy = (device: string): string => (device === "meta" && meant !== null ? meant : device);
