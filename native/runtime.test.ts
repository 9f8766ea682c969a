import { expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as w from "./index.ts";

test("the heartbeat goes on while JS is inside operators", () => {
  const folder = mkdtempSync(join(tmpdir(), "waver-heartbeat-"));
  const path = join(folder, "beats");
  const fd = openSync(path, "w");
  w.startHeartbeat(fd, 5);
  const end = performance.now() + 200;
  w.scope(() => {
    const x = w.ones([256, 256]);
    while (performance.now() < end) w.scope(() => x.matmul(x)); // never yields to the event loop
  });
  w.stopHeartbeat();
  const beats = readFileSync(path).length;
  closeSync(fd);
  rmSync(folder, { recursive: true });
  expect(beats).toBeGreaterThan(5);
  expect(() => w.startHeartbeat(1, 0)).toThrow("interval");
});

test("threads are set, bytes are counted, freed blocks are kept up to a limit", () => {
  const threads = w.getThreads();
  w.setThreads(1);
  expect(w.getThreads()).toBe(1);
  w.setThreads(threads);
  expect(() => w.setThreads(0)).toThrow("from 1 up");
  const before = w.allocatedBytes();
  w.emptyCache();
  const t = w.empty([1 << 20]);
  expect(w.allocatedBytes() - before).toBe(4 << 20);
  expect(w.peakBytes()).toBeGreaterThanOrEqual(w.allocatedBytes());
  t.dispose();
  expect(w.allocatedBytes()).toBe(before);
  expect(w.cachedBytes()).toBeGreaterThanOrEqual(4 << 20);
  w.setCacheLimit(0);
  w.empty([1 << 20]).dispose();
  expect(w.cachedBytes()).toBe(0);
  w.setCacheLimit(1 << 30);
});

test("the machine is told", () => {
  expect(w.cpuCapability().length).toBeGreaterThan(0);
  expect(w.deviceCount()).toBeGreaterThanOrEqual(0);
  if (w.deviceCount() === 0) expect(w.cudaMemory()).toBeNull();
});

test("a CPU has one order of work: streams and marks change nothing", () => {
  using stream = w.Stream.open("cpu");
  using mark = stream.run(() => w.Mark.set("cpu"));
  mark.wait();
  expect(() =>
    stream.run(() => {
      throw new Error("stop");
    }),
  ).toThrow("stop");
  expect(stream.run(() => 1)).toBe(1);
  stream[Symbol.dispose]();
  expect(() => stream.run(() => 1)).toThrow("closed already");
  expect(w.deviceMemory("cpu")).toBeNull();
});
