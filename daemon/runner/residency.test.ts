import { expect, test } from "bun:test";
import type { WaverError } from "../../plugins/index.ts";
import { type LoadRequest, Residency } from "./residency.ts";

const never = new AbortController().signal;

function request(
  id: string,
  bytes: number,
  events: string[],
  how: { ms?: number; fail?: boolean; version?: number } = {},
): LoadRequest {
  return {
    hook: "family",
    id,
    origin: id,
    key: `${id} ${how.version ?? 1}`,
    bytes: () => bytes,
    load: async (signal) => {
      events.push(`load ${id}`);
      if (how.ms !== undefined) await Bun.sleep(how.ms);
      if (signal.aborted) events.push(`aborted ${id}`);
      if (how.fail === true) throw new Error("no such file");
      return {
        [Symbol.asyncDispose]: async () => {
          events.push(`dispose ${id}`);
        },
      };
    },
    unloaded: () => events.push(`unloaded ${id}`),
  };
}

test("a state is loaded once and shared, and kept while idle", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  const [a, b] = await Promise.all([
    residency.acquire(request("a", 10, events), never),
    residency.acquire(request("a", 10, events), never),
  ]);
  expect(a.state).toBe(b.state);
  a.release();
  b.release();
  const again = await residency.acquire(request("a", 10, events), never);
  expect(events).toEqual(["load a"]);
  again.release();
});

test("idle states make room, the longest idle first; those in use stay", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  for (const id of ["a", "b"]) (await residency.acquire(request(id, 40, events), never)).release();
  await Bun.sleep(2);
  const b = await residency.acquire(request("b", 40, events), never);
  await residency.acquire(request("c", 50, events), never);
  expect(events).toEqual(["load a", "load b", "dispose a", "unloaded a", "load c"]);
  const refused = await residency.acquire(request("d", 20, events), never).catch((error: WaverError) => error);
  expect(refused).toMatchObject({ code: "out_of_memory" });
  expect((refused as WaverError).hint).toContain("WAVER_MEMORY_BUDGET");
  expect((refused as WaverError).message).toContain("family b (1 MB)");
  b.release();
  await residency.acquire(request("d", 20, events), never);
  expect(events.slice(5)).toEqual(["dispose b", "unloaded b", "load d"]);
});

test("what was loaded from files that have changed leaves when they are loaded anew; not while somebody uses it", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  const [first, second] = [
    await residency.acquire(request("a", 10, events), never),
    await residency.acquire(request("a", 10, events, { version: 2 }), never),
  ];
  expect(second.state).not.toBe(first.state);
  expect(events).toEqual(["load a", "load a"]);
  first.release();
  second.release();
  (await residency.acquire(request("a", 10, events, { version: 3 }), never)).release();
  expect(events.slice(2).sort()).toEqual(["dispose a", "dispose a", "load a", "unloaded a", "unloaded a"]);
});

test("an idle state leaves after its time, or when told to", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 20 });
  (await residency.acquire(request("a", 10, events), never)).release();
  await Bun.sleep(60);
  expect(events).toEqual(["load a", "dispose a", "unloaded a"]);
  const held = await residency.acquire(request("b", 10, events), never);
  await residency.evict(0);
  expect(residency.items()).toMatchObject([{ id: "b", bytes: 10, idleSeconds: 0 }]);
  held.release();
  await residency.evict(0);
  expect(residency.items()).toEqual([]);
});

test("a load that nobody waits for any more is aborted and disposed; one with another waiter goes on", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  const abort = new AbortController();
  const alone = residency.acquire(request("a", 10, events, { ms: 20 }), abort.signal);
  const shared = residency.acquire(request("b", 10, events, { ms: 20 }), abort.signal);
  const other = residency.acquire(request("b", 10, events), never);
  await Bun.sleep(5);
  const gone = Promise.allSettled([alone, shared]);
  abort.abort(new Error("cancelled"));
  const ended = await gone;
  expect(ended.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  (await other).release();
  await Bun.sleep(30);
  expect(events.toSorted()).toEqual(["aborted a", "dispose a", "load a", "load b", "unloaded a"]);
});

test("a failed load is told to all who waited, and can be tried again", async () => {
  const events: string[] = [];
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  await expect(residency.acquire(request("a", 10, events, { fail: true }), never)).rejects.toThrow("no such file");
  await Bun.sleep(1);
  (await residency.acquire(request("a", 10, events), never)).release();
  expect(events).toEqual(["load a", "unloaded a", "load a"]);
});
