/** Resident memory of this process, as the kernel counts it. */
import { readFileSync, writeFileSync } from "node:fs";

/** Highest resident memory since the last reset, in bytes. */
export function peakBytes(): number {
  try {
    const match = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"));
    if (match !== null) return Number(match[1]) * 1024;
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
  // Not Linux: since the start of the process, which may say more than this job took.
  return process.resourceUsage().maxRSS * (process.platform === "darwin" ? 1 : 1024);
}

/** Begins a new peak; where the kernel does not allow it the peak is that of the whole process. */
export function resetPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
}

/** No /proc, or one that is read-only or closed to us. */
const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "EACCES", "EPERM", "EROFS", "EINVAL"].includes((error as NodeJS.ErrnoException).code ?? "");
