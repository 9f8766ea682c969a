/** Runner processes as the daemon meets them: messages in, messages out. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type PluginHome, pluginHome, pluginSource, rewriter } from "../../test/support/plugin-package.ts";
import { leaseOf, type RunnerUnderTest, startRunner } from "../../test/support/runner-process.ts";
import type { Config } from "../config.ts";

const NAME = "wp-jobs";
/** An operation that counts, one that asks for others, one that fails in the background; a rewriter and a scorer. */
const SOURCE = pluginSource(
  NAME,
  `${rewriter("wp-loud", "async (prompt) => ({ ...prompt, text: prompt.text.toUpperCase() })")},
   ${rewriter("wp-broken", "async () => { throw new TypeError('x is undefined'); }")},
   ${rewriter("wp-wrong", "async () => ({ words: 3 })")},
   provide("score", { id: "wp-count", summary: "s", runs: "worker", options: z.object({}),
     traits: { view: { width: 8, height: 8, fit: "stretch", rate: 2, format: "gray8", batch: 2 }, measures: ["seconds"] },
     run: async ({ clip }) => ({ seconds: clip.end - clip.start }) })`,
).replace(
  "provides:",
  `operations: {
    "wp-count": { kind: "job", summary: "s", runs: "worker", input: z.object({ to: z.int() }), output: z.object({ units: z.int() }), slots: {},
      async run({ to }, _, ctx) {
        for (let i = 0; i < to; i++) {
          await ctx.unit("unit " + i, z.int(), async () => i);
          await new Promise((done) => setTimeout(done, 2));
          ctx.progress(i + 1, to, "units");
          await ctx.breathe();
        }
        return { units: to };
      } },
    "wp-ask": { kind: "job", summary: "s", runs: "worker", input: z.object({ rewriter: z.string(), child: z.boolean().default(false) }), output: z.object({ text: z.string() }), slots: {},
      async run({ rewriter, child }, _, ctx) {
        if (child) await ctx.run("wp-count", { to: 1 });
        ctx.log("asking", { rewriter });
        using rewrite = await ctx.use("rewrite", rewriter);
        return { text: (await rewrite({ text: "a ball", negative: "" })).text };
      } },
    "wp-stray": { kind: "job", summary: "s", runs: "worker", input: z.object({}), output: z.null(), slots: {},
      async run() { Promise.reject(new Error("nobody waits")); await new Promise(() => {}); } },
  },
  provides:`,
);

let home: PluginHome;
let config: Config;
beforeAll(async () => {
  home = await pluginHome();
  await home.install({ name: NAME, source: SOURCE });
  config = await home.config();
});
afterAll(async () => home[Symbol.asyncDispose]());

const run = (runner: RunnerUnderTest, n: number, operation: string, input: Record<string, unknown>): void =>
  runner.send({ type: "run", lease: leaseOf(n), operation, input, workDir: join(home.folder, `job-${n}`) });

describe("a process for a third party's plugin", () => {
  test("runs jobs beside each other, with progress and units", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    run(runner, 1, "wp-count", { to: 30 });
    run(runner, 2, "wp-count", { to: 40 });
    const done = await Promise.all([1, 2].map((n) => runner.next("done", ({ lease }) => lease.job === leaseOf(n).job)));
    expect(done.map(({ output }) => output)).toEqual([{ units: 30 }, { units: 40 }]);
    expect(done[0]?.peakBytes).toBeGreaterThan(10e6);
    const last = runner.messages.findLast((each) => each.type === "progress" && each.lease.job === leaseOf(2).job);
    expect(last).toMatchObject({ progress: { stage: "units", done: 40, total: 40 } });
    // Progress comes before the end of its job.
    expect(runner.messages.indexOf(last as never)).toBeLessThan(runner.messages.indexOf(done[1] as never));
  });

  test("cancels within a moment", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    run(runner, 3, "wp-count", { to: 100_000 });
    await runner.next("progress");
    const start = performance.now();
    runner.send({ type: "cancel", job: leaseOf(3).job });
    expect(await runner.next("failed")).toMatchObject({ error: { code: "cancelled" }, lease: leaseOf(3) });
    expect(performance.now() - start).toBeLessThan(500);
  });

  test("asks the daemon for providers of others, and for child jobs", async () => {
    await home.install({ name: "wp-other", source: pluginSource("wp-other", rewriter("wp-elsewhere")) });
    await using runner = await startRunner(config, { plugin: NAME });
    run(runner, 4, "wp-ask", { rewriter: "wp-elsewhere", child: true });
    const submit = await runner.next("submit");
    expect(submit).toMatchObject({ operation: "wp-count", input: { to: 1 }, lease: leaseOf(4) });
    runner.send({
      type: "submitted",
      call: submit.call,
      result: { jobId: "job_x", reused: true, output: null, seconds: 0, peakBytes: 0 },
    });
    const use = await runner.next("use");
    expect(use).toMatchObject({ hook: "rewrite", id: "wp-elsewhere", input: { text: "a ball" } });
    runner.send({ type: "used", call: use.call, output: { text: "a blue ball", negative: "" } });
    expect((await runner.next("done")).output).toEqual({ text: "a blue ball" });
    expect(await runner.next("log")).toMatchObject({ event: "asking", lease: leaseOf(4), level: "info" });
  });

  test("names the culprit of a failure, and checks what comes back", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    const failure = async (n: number, rewriter: string): Promise<unknown> => {
      run(runner, n, "wp-ask", { rewriter });
      return (await runner.next("failed", ({ lease }) => lease.job === leaseOf(n).job)).error;
    };
    expect(await failure(5, "wp-broken")).toMatchObject({
      code: "plugin_failed",
      data: { plugin: NAME, hook: "rewrite", id: "wp-broken" },
    });
    expect(await failure(6, "wp-wrong")).toMatchObject({
      code: "plugin_failed",
      message: expect.stringContaining("rewrite promises"),
    });
    expect(await failure(7, "wp-lod")).toMatchObject({ code: "no_provider", hint: "did you mean wp-loud?" });
  });

  test("runs a scorer of a clip that is decoded on this side", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    const digest = `sha256:${"a".repeat(64)}`;
    const source = {
      id: digest,
      path: "/nowhere.mp4",
      tag: "t",
      width: 8,
      height: 8,
      fps: 2,
      numFrames: 4,
      duration: 2,
      bitrate: 0,
      codec: "h264",
    };
    const clip = { id: digest, source: digest, start: 0.5, end: 2 };
    const call = {
      type: "call",
      lease: leaseOf(8),
      hook: "score",
      id: "wp-count",
      options: {},
      workDir: join(home.folder, "call"),
    } as const;
    runner.send({ ...call, call: "one", input: { clip, source } });
    expect(await runner.next("called", (each) => each.call === "one")).toMatchObject({ output: { seconds: 1.5 } });
    runner.send({ ...call, call: "two", input: { clip: 3 } });
    expect(await runner.next("called", (each) => each.call === "two")).toMatchObject({
      error: { code: expect.any(String) },
    });
  });

  test("ends with a logged reason when a promise fails that nobody awaits", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    run(runner, 9, "wp-stray", {});
    expect(await runner.next("log", ({ event }) => event === "unhandled_rejection")).toMatchObject({
      level: "error",
      fields: { reason: "nobody waits" },
    });
    expect(await runner.exited).toBe(70);
  });

  test("stops when told, and reports what it stopped", async () => {
    await using runner = await startRunner(config, { plugin: NAME });
    run(runner, 10, "wp-count", { to: 100_000 });
    await runner.next("progress");
    runner.send({ type: "stop" });
    expect(await runner.next("failed")).toMatchObject({ error: { code: "cancelled" } });
    expect(await runner.exited).toBe(0);
  });
});

test("a worker of the pool imports no third party's code", async () => {
  await using runner = await startRunner(config);
  run(runner, 11, "wp-count", { to: 1 });
  expect(await runner.next("failed")).toMatchObject({
    error: { code: "internal", message: expect.stringContaining("must not import") },
  });
});

test("a worker finds a plugin that was installed after it had started", async () => {
  await using runner = await startRunner(config);
  await home.install({ name: "wp-late", source: pluginSource("wp-late", rewriter("wp-late")) });
  const call = { type: "call", lease: leaseOf(12), call: "late", hook: "rewrite", id: "wp-late" } as const;
  runner.send({ ...call, options: {}, input: { text: "", negative: "" }, workDir: join(home.folder, "late") });
  // It is known by now, and still not run in the pool.
  expect(await runner.next("called")).toMatchObject({ error: { message: expect.stringContaining("must not run it") } });
});

test("a third party's guide runs in the device's runner, beside the tensors it combines", async () => {
  const guide = `provide("guide", { id: "wp-sum", summary: "s", runs: "device", options: z.object({ scale: z.number().default(2) }), traits: {},
    run: async (_, { options }) => ({ predict }) => predict("positive") * options.scale })`;
  const operation = `operations: { "wp-guided": { kind: "job", summary: "s", runs: "device", input: z.object({}), output: z.number(),
    slots: { guide: { hook: "guide", summary: "how", default: { id: "wp-sum" } } },
    async run(_, { guide }, ctx) { return (await (await ctx.use("guide", guide.id, guide))({}))({ predict: () => 21 }); } } }, provides:`;
  await home.install({ name: "wp-guide", source: pluginSource("wp-guide", guide).replace("provides:", operation) });
  await using runner = await startRunner(config, { role: "device" });
  run(runner, 13, "wp-guided", { guide: "wp-sum" });
  expect((await runner.next("done")).output).toBe(42);
  expect(runner.messages.find(({ type }) => type === "use")).toBeUndefined();
});
