// The machine as the engine sees it: threads, memory, devices, the heartbeat.
import { addon } from "./addon.ts";
import type { Device } from "./tensor.ts";

/** Threads inside one operator. */
export function setThreads(n: number): void {
  addon().setThreads(n);
}
export function getThreads(): number {
  return addon().getThreads();
}
/** Bytes of CPU memory that libtorch holds now: tensors, graphs, temporaries. Mapped checkpoints are not counted. */
export function allocatedBytes(): number {
  return addon().allocatedBytes();
}
export function peakBytes(): number {
  return addon().peakBytes();
}
export function resetPeakBytes(): void {
  addon().resetPeakBytes();
}
/** CUDA devices; 0 without a GPU or with a CPU-only libtorch. */
export function deviceCount(): number {
  return addon().deviceCount();
}
export function cudaMemory(index = 0): { allocated: number; reserved: number; peak: number } | null {
  return addon().cudaMemory(index);
}
/** Of an accelerator, as its driver counts; null for the CPU. */
export function deviceMemory(device: Device): { free: number; total: number } | null {
  return addon().deviceMemory(device);
}
/** How many bytes of freed CPU memory are kept for the next tensors (1 GiB at start); what is kept now is given back. */
export function setCacheLimit(bytes: number): void {
  addon().setCacheLimit(bytes);
}
/** Freed CPU memory that is kept now; not part of allocatedBytes(). */
export function cachedBytes(): number {
  return addon().cachedBytes();
}
/** Gives kept memory back, on the CPU and on the GPU. */
export function emptyCache(): void {
  addon().emptyCache();
}
/** "AVX512", "AVX2", ... as libtorch dispatches. */
export function cpuCapability(): string {
  return addon().cpuCapability();
}
/** Writes one byte to a descriptor at each interval from a native thread, also while JS is inside an operator. */
export function startHeartbeat(fd: number, intervalMs: number): void {
  addon().startHeartbeat(fd, intervalMs);
}
export function stopHeartbeat(): void {
  addon().stopHeartbeat();
}
