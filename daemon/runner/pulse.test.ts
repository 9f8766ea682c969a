import { afterAll, expect, test } from "bun:test";
import { WaverError } from "../../plugins/index.ts";
import { heard, living, Pulse } from "./pulse.ts";

/**
 * A runner has a channel that keeps its event loop waiting. With nothing to wait for, bun turns the loop as fast as it can
 * for a promise that never settles, and a process that computes is not silent.
 */
const awake = setInterval(() => undefined, 60_000);
afterAll(() => clearInterval(awake));

/** Looks come every quarter of a second: a limit of a few of them. */
const LIMIT = 0.8;
const hung = (): WaverError => new WaverError("plugin_timeout", "hung");
const never = (): Promise<never> => new Promise(() => undefined);
const watch = <T>(pulse: Pulse, work: () => Promise<T>): Promise<T> => pulse.watch(work, LIMIT, hung);

test("what never settles is cut off, what settles is passed on", async () => {
  await expect(watch(new Pulse(), never)).rejects.toMatchObject({ code: "plugin_timeout" });
  expect(await watch(new Pulse(), async () => 7)).toBe(7);
  const thrown = watch(new Pulse(), () => {
    throw new Error("at once");
  });
  await expect(thrown).rejects.toThrow("at once");
});

test("signs of life, work of the host and computing are no silence", async () => {
  const touched = new Pulse();
  const slow = watch(touched, async () => {
    for (let i = 0; i < 8; i += 1) {
      await Bun.sleep(200);
      touched.touch();
    }
    return "touched";
  });
  const waiting = new Pulse();
  const host = watch(waiting, () => waiting.host(() => Bun.sleep(1_600).then(() => "host")));
  const reading = new Pulse();
  async function* frames() {
    for (let i = 0; i < 3; i += 1) {
      await Bun.sleep(500);
      yield i;
    }
  }
  const media = living({ frames }, reading);
  const read = watch(reading, async () => {
    const seen: number[] = [];
    for await (const frame of media.frames()) seen.push(frame);
    return seen;
  });
  expect(await Promise.all([slow, host, read])).toEqual(["touched", "host", [0, 1, 2]]);
  const computing = watch(new Pulse(), async () => {
    for (let i = 0; i < 12; i += 1) {
      Bun.sleepSync(1); // the loop turns, and yet the process is at work
      const until = performance.now() + 120;
      while (performance.now() < until);
      await Bun.sleep(10);
    }
    return "computed";
  });
  expect(await computing).toBe("computed");
});

test("a stream of the plugin's that the host waits for is the plugin's silence", async () => {
  const pulse = new Pulse();
  const media = living(
    {
      async write(given: AsyncIterable<number>) {
        for await (const _ of given);
      },
    },
    pulse,
  );
  async function* stuck() {
    yield 1;
    await never();
  }
  await expect(watch(pulse, () => media.write(stuck()))).rejects.toMatchObject({ code: "plugin_timeout" });
});

test("a record of streams stays one, and whoever leaves a stream leaves the one behind it", async () => {
  let left = false;
  async function* numbers() {
    try {
      yield 1;
      yield 2;
    } finally {
      left = true;
    }
  }
  const { a } = heard({ a: numbers() }, new Pulse());
  for await (const each of a) {
    expect(each).toBe(1);
    break;
  }
  expect(left).toBe(true);
});

test("code runs while it does not wait for the host", async () => {
  const turns: boolean[] = [];
  const pulse = new Pulse((isRunning) => turns.push(isRunning));
  await watch(pulse, async () => {
    await pulse.host(async () => turns.push(false));
    await Promise.all([pulse.host(never).catch(() => undefined), Promise.reject(new Error("ends"))]).catch(
      () => undefined,
    );
  });
  expect(turns).toEqual([true, false, false, true, false]);
});
