// The compiled addon, loaded at first use; importing this file costs nothing.
import { dlopen } from "bun:ffi";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { EngineError } from "./errors.ts";

type Bytes = ArrayBufferView;
/** What native/src registers. Handles are numbers; 0 stands for no tensor. */
export interface Addon {
  setErrorClass(cls: typeof EngineError): void;
  free(handle: number): boolean;
  freeMany(handles: Float64Array, count: number): number;
  alive(handle: number): boolean;
  liveTensors(): number;
  meta(handle: number, out: Float64Array): void;
  strides(handle: number): number[];
  version(handle: number): number;
  dtypeCode(name: string): number;
  item(handle: number): number;
  read(handle: number, into: Bytes): void;
  fromBytes(data: Bytes, dtype: string, shape: readonly number[]): number;
  findOp(
    name: string,
    overload: string,
  ): { id: number; args: string; names: string[]; returns: string; alias: number[] } | null;
  call(op: number, ...args: unknown[]): unknown;
  shareBuffer(buffer: Float64Array): void;
  setGradEnabled(on: boolean): boolean;
  gradEnabled(): boolean;
  enterInference(): void;
  leaveInference(): void;
  requiresGrad(handle: number): boolean;
  setRequiresGrad(handle: number, on: boolean): void;
  isLeaf(handle: number): boolean;
  grad(handle: number, known: number): number;
  setGrad(handle: number, grad: number): void;
  backward(outputs: number[], gradients: number[], retain: boolean, create: boolean, inputs: number[]): void;
  gradOf(
    outputs: number[],
    inputs: number[],
    gradients: number[],
    retain: boolean,
    create: boolean,
    allowUnused: boolean,
  ): number[];
  mapFile(fd: number): number;
  unmapFile(id: number): void;
  fromMapping(id: number, offset: number, size: number, dtype: string, shape: readonly number[]): number;
  adviseMapping(id: number, offset: number, size: number, soon: boolean): void;
  syncFolder(path: string): void;
  writeTensor(fd: number, handle: number): void;
  allocatedBytes(): number;
  peakBytes(): number;
  resetPeakBytes(): void;
  outlinedBytes(): number;
  outlinedPeakBytes(): number;
  resetOutlinedPeakBytes(): void;
  deviceCount(): number;
  cudaMemory(index: number): { allocated: number; reserved: number; peak: number } | null;
  deviceMemory(device: string): { free: number; total: number } | null;
  setCacheLimit(bytes: number): void;
  cachedBytes(): number;
  emptyCache(): void;
  openStream(device: string): number;
  closeStream(stream: number): void;
  enterStream(stream: number): void;
  leaveStream(): void;
  mark(device: string): number;
  awaitMark(mark: number): void;
  closeMark(mark: number): void;
  canRecord(device: string): boolean;
  beginRecording(device: string): number;
  endRecording(recording: number): void;
  replay(recording: number): void;
  closeRecording(recording: number): void;
  newGenerator(high: number, low: number, device: string): number;
  freeGenerator(id: number): void;
  generatorState(id: number): number;
  setGeneratorState(id: number, state: number): void;
  setThreads(n: number): void;
  getThreads(): number;
  cpuCapability(): string;
  oneDnn(): boolean;
  hasCuda(): boolean;
  allowTf32(on: boolean): void;
  startHeartbeat(fd: number, intervalMs: number): void;
  stopHeartbeat(): void;
  openStore(host: string, port: number, server: boolean, secret: string, ms: number): { id: number; port: number };
  closeStore(store: number): void;
  storeSet(store: number, key: string, value: string): void;
  storeGet(store: number, key: string, ms: number): string;
  storeHas(store: number, key: string): boolean;
  storeDelete(store: number, key: string): boolean;
  openGroup(
    store: number,
    name: string,
    rank: number,
    size: number,
    device: string,
    host: string,
    timeoutMs: number,
  ): number;
  closeGroup(group: number): void;
  broadcast(group: number, tensor: number, root: number): number;
  send(group: number, tensor: number, to: number, tag: number): number;
  receive(group: number, tensor: number, from: number, tag: number): number;
  barrier(group: number): number;
  waitWork(work: number): void;
  workIsDone(work: number): boolean;
}

/** What goes through the shared buffer: operator and number of arguments in, number of results out; -1: take `call`. */
export interface ShortWay {
  readonly buffer: Float64Array;
  call(op: number, given: number): number;
}
const BUFFER = 1024; // doubles; longer lists take the long way

const HINT = "run `npm run setup`, or only `bun native/build.ts`";
let loaded: Addon | null = null;
let short: ShortWay | null = null;

/** @internal The cheaper crossing, half the cost of an N-API call; null before the addon is loaded or where FFI is missing. */
export function shortWay(): ShortWay | null {
  return short;
}

/** The addon; loads it the first time. */
export function addon(): Addon {
  return loaded ?? load();
}

function load(): Addon {
  const file = join(dirname(fileURLToPath(import.meta.url)), "build", "waver.node");
  if (!existsSync(file))
    throw new EngineError("native_missing", `the native engine is not built (${file} is missing)`, HINT);
  let found: Addon;
  try {
    found = createRequire(import.meta.url)(file) as Addon;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(
      "native_missing",
      `the native engine could not be loaded: ${why}`,
      `libtorch may have moved: ${HINT}`,
    );
  }
  found.setErrorClass(EngineError);
  // Without oneDNN a bf16 convolution is 20 to 2000 times slower (measured in the spike).
  if (!found.oneDnn()) {
    throw new EngineError(
      "native_missing",
      "this libtorch has no oneDNN; CPU operators would be unusably slow",
      "use an official libtorch",
    );
  }
  // For test/support/leak.ts, which must see the counter without loading the engine itself.
  Object.assign(globalThis, { [Symbol.for("waver.native")]: found });
  short = openShortWay(file, found);
  loaded = found;
  return found;
}

function openShortWay(file: string, native: Addon): ShortWay | null {
  const buffer = new Float64Array(BUFFER);
  try {
    const { symbols } = dlopen(file, { waver_call: { args: ["i32", "i32"], returns: "i32" } });
    native.shareBuffer(buffer);
    return { buffer, call: symbols.waver_call };
  } catch {
    return null; // every call takes the long way
  }
}
