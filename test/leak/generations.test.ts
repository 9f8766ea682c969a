/**
 * A warm runner makes one clip after another: tensors and allocator bytes come exactly back after each, and the process
 * does not grow. The runner's own code in this process, where the engine's counters can be read. `--long`: 20 + 100.
 */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../daemon/config.ts";
import { buildRegistry } from "../../daemon/plugins/build.ts";
import type { FromRunner } from "../../daemon/runner/protocol.ts";
import { Runner } from "../../daemon/runner/runner.ts";
import { allocatedBytes, leaked, liveTensors, setThreads } from "../../native/index.ts";
import { leaseOf } from "../support/runner-process.ts";

setThreads(1);
const MODEL = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");
const isLong = (process.env["WAVER_TEST_SIZE"] ?? "default") !== "default";
const [WARM, COUNT] = isLong ? [20, 100] : [4, 10];
/** Of generations in turn. */
const CACHES = [{}, { cache: { id: "taylor", whole: 1 } }, {}, { cache: { id: "first-block", threshold: 0.5 } }];
/** The limit, in bytes a generation. */
const SLOPE = 0.1e6;

/** Least squares: change of y from one to the next. */
function slope(y: readonly number[]): number {
  const [n, mean] = [y.length, y.reduce((a, b) => a + b, 0) / y.length];
  const middle = (n - 1) / 2;
  const [above, below] = y.reduce(
    ([a, b], value, i) => [a + (i - middle) * (value - mean), b + (i - middle) ** 2],
    [0, 0],
  );
  return above / below;
}

test(
  `${COUNT} warm generations after ${WARM} leave nothing behind`,
  async () => {
    const home = mkdtempSync(join(tmpdir(), "waver-warm-"));
    const config = await loadConfig({ from: home, env: { HOME: home, XDG_CONFIG_HOME: home }, set: { home } });
    const load = (): ReturnType<typeof buildRegistry> =>
      buildRegistry({ config, signal: new AbortController().signal });
    let last: FromRunner | undefined;
    const runner = new Runner({
      ...{ role: "device", device: "cpu", plugin: null, config, registry: await load(), reload: load },
      link: {
        send: (message) => {
          if (message.type === "done" || message.type === "failed") last = message;
        },
        use: async () => expect.unreachable(),
        submit: async () => expect.unreachable(),
      },
    });
    const rss: number[] = [];
    const counts: [number, number][] = [];
    try {
      for (let n = 0; n < WARM + COUNT; n++) {
        await runner.run({
          ...{ type: "run", lease: leaseOf(n), operation: "generate", workDir: join(home, "work", String(n)) },
          input: {
            ...{ model: MODEL, prompt: `a cat, take ${n % 7}`, seed: n, maxTokens: 16 },
            ...{ width: 64, height: 64, numFrames: 9, numSteps: 6 },
            ...CACHES[n % CACHES.length],
          },
        });
        if (last?.type !== "done") throw new Error(JSON.stringify(last));
        rmSync(join(home, "work", String(n)), { recursive: true });
        if (n < WARM) continue;
        Bun.gc(true);
        counts.push([liveTensors(), allocatedBytes()]);
        rss.push(process.memoryUsage.rss());
      }
    } finally {
      await runner[Symbol.asyncDispose]();
      rmSync(home, { recursive: true, force: true });
    }
    const grows = slope(rss);
    console.log(
      JSON.stringify({
        id: "generations",
        warm: WARM,
        count: COUNT,
        live: counts.at(-1)?.[0],
        bytes: counts.at(-1)?.[1],
        rssSlopeMB: grows / 1e6,
        rssMB: [rss[0], rss.at(-1)].map((b) => Math.round((b ?? 0) / 1e6)),
      }),
    );
    expect(new Set(counts.map(String)).size).toBe(1);
    expect(leaked()).toBe(0);
    // Ten are too few to tell a slope from noise.
    if (isLong) expect(grows).toBeLessThan(SLOPE);
  },
  isLong ? 3600_000 : 600_000,
);
