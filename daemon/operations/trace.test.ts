import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type AnyOperation, type ClipRow, Digest, type WaverError, writeTable } from "../../plugins/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { explain } from "./explain.ts";
import { funnel } from "./funnel.ts";
import { trace } from "./trace.ts";
import { verify } from "./verify.ts";

setDefaultTimeout(60_000);

let ctx: TestContext;
let source: Digest;
let table: Digest;
let set: Digest;
let model: Digest;

const digest = (n: number): Digest => Digest.parse(`sha256:${n.toString(16).padStart(64, "0")}`);
const row = (n: number, more: Partial<ClipRow> = {}): ClipRow => ({
  id: Digest.parse(`sha256:${(0xabc000 + n).toString(16)}${"0".repeat(58)}`),
  source: digest(7),
  path: "/videos/park.mp4",
  tag: "t",
  start: n,
  end: n + 2,
  width: 640,
  height: 360,
  fps: 25,
  caption: "a park",
  captionBy: "sidecar",
  actions: null,
  embeddedBy: "e",
  embedding: Float32Array.from({ length: 12 }, (_, i) => (i === n ? 1 : 0)),
  dropped: null,
  reason: null,
  stage: "nano",
  repeat: 1,
  scores: {
    "basic.shortSide": 360,
    "basic.duration": 2,
    "basic.fps": 25,
    "visual.still": n / 10,
    "visual.contrast": 0.2,
  },
  ...more,
});

beforeAll(async () => {
  ctx = await testContext({ plugins: ["select-funnel", "select-dedup"] });
  const by = { operation: "curate", version: "0.1.0" };
  source = digest(7);
  const rows = [
    row(1),
    row(2),
    row(9, { dropped: "nano/still", reason: "visual.still is 0.9" }),
    row(6, { scores: {}, dropped: "curate/error", reason: "cut short" }),
  ];
  await writeTable(join(ctx.home, "t.parquet"), rows);
  table = await ctx.store.publish(join(ctx.home, "t.parquet"), {
    kind: "clip-table",
    name: "mine",
    inputs: [{ role: "source", digest: source }],
    by,
    options: { recipe: "nano" },
  });
  writeFileSync(join(ctx.home, "set.txt"), "set");
  set = await ctx.store.publish(join(ctx.home, "set.txt"), {
    kind: "set",
    name: "mine-set",
    inputs: [
      { role: "table", digest: table },
      { role: "source", digest: source },
    ],
    by,
    options: {},
  });
  writeFileSync(join(ctx.home, "model.txt"), "model");
  model = await ctx.store.publish(join(ctx.home, "model.txt"), {
    kind: "pipeline",
    inputs: [{ role: "set", digest: set }],
    by: { ...by, operation: "train" },
    options: { steps: 10 },
    seed: 3,
  });
});
afterAll(() => ctx[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noExplicitAny: answers of four operations, looked at by matchers
const ask = (operation: AnyOperation, input: Record<string, unknown>): Promise<any> =>
  runOperation(operation, input, ctx);
const failure = (work: Promise<unknown>): Promise<WaverError> =>
  work.then(
    () => {
      throw new Error("it did not fail");
    },
    (error) => error as WaverError,
  );

describe("trace", () => {
  test("walks up to the source, whose file lies outside, with the options of each step", async () => {
    const up = await ask(trace, { of: model });
    expect(up.nodes.map((node: { digest: string; depth: number }) => [node.digest, node.depth])).toEqual([
      [model, 0],
      [set, 1],
      [table, 2],
      [source, 2],
    ]);
    expect(up.nodes[0].lineage).toMatchObject({ options: { steps: 10 }, seed: 3 });
    expect(up.nodes[3].lineage).toBeNull();
    expect(up.edges).toContainEqual({ from: set, to: table, role: "table" });
    expect(up.cut).toBe(false);
  });

  test("walks down from a source to everything it touched", async () => {
    const down = await ask(trace, { of: source, direction: "down" });
    expect(new Set(down.nodes.map((node: { digest: string }) => node.digest))).toEqual(
      new Set([source, table, set, model]),
    );
    expect((await ask(trace, { of: source, direction: "down", depth: 1 })).cut).toBe(true);
  });

  test("names, beginnings and files are understood", async () => {
    expect((await ask(trace, { of: "mine-set" })).root).toBe(set);
    expect((await ask(trace, { of: model.slice(0, 20) })).root).toBe(model);
    expect((await ask(trace, { of: join(ctx.home, "model.txt") })).root).toBe(model);
    expect((await failure(ask(trace, { of: "unheard of" }))).code).toBe("not_found");
  });

  test("a video that is in no store names its inputs in its metadata", async () => {
    const path = join(ctx.home, "made.mp4");
    const frames = {
      data: new Uint8Array(32 * 32 * 3 * 4),
      count: 4,
      width: 32,
      height: 32,
      format: "rgb24" as const,
      times: [0, 1, 2, 3],
    };
    await ctx.media.writeVideo(path, [frames], { fps: 8, metadata: { prompt: "x", model: { digest: model } } });
    const up = await ask(trace, { of: path });
    expect(up.nodes.map((node: { digest: string }) => node.digest)).toContain(source);
    expect(up.metadata).toMatchObject({ prompt: "x" });
  });
});

describe("explain", () => {
  test("tells the rule and the figures of a clip, by id, beginning or source", async () => {
    const one = await ask(explain, { clip: "abc009" });
    expect(one).toMatchObject({
      table,
      name: "mine",
      clips: [{ kept: false, rule: "nano/still", reason: "visual.still is 0.9", scores: { "visual.still": 0.9 } }],
    });
    expect((await ask(explain, { clip: "/videos/park.mp4" })).clips).toHaveLength(4);
    expect((await ask(explain, { clip: "park.mp4", table: "mine" })).clips[0].kept).toBe(true);
    expect((await failure(ask(explain, { clip: "ffffff" }))).code).toBe("not_found");
  });
});

describe("funnel", () => {
  test("other thresholds on stored scores: who would come and who would go", async () => {
    const same = await ask(funnel, { table: "mine" });
    expect(same).toMatchObject({ table, clips: 4, before: 2, kept: 3, gained: 1, lost: 0 });
    const strict = await ask(funnel, { change: ["nano/still.max=0.15"], selectors: [{ id: "funnel" }] });
    expect(strict).toMatchObject({
      kept: 1,
      gained: 0,
      lost: 1,
      dropped: [
        { rule: "curate/error", clips: 1 },
        { rule: "nano/still", clips: 2, kept: 1 },
      ],
    });
    expect(strict.examples.lost[0].reason).toContain("over 0.15");
    expect((await failure(ask(funnel, { change: ["nano/none.max=1"] }))).hint).toContain("nano/still");
    expect((await failure(ask(funnel, { table: "mine-set" }))).code).toBe("not_found");
    expect((await failure(ask(funnel, { table: set }))).code).toBe("invalid_input");
  });

  test("Waver's own funnel says how far each clip would get", async () => {
    const out = await ask(funnel, { recipe: "waver", stage: "192p", selectors: [{ id: "funnel" }] });
    expect(out.dropped.map((each: { rule: string }) => each.rule)).toEqual(["curate/error", "192p/still"]);
  });
});

describe("verify", () => {
  test("whole artefacts are whole, damage and what lies outside is told", async () => {
    expect(await ask(verify, { of: model, inputs: true })).toMatchObject({
      whole: true,
      artefacts: [{ kind: "pipeline" }, { kind: "set" }, { kind: "clip-table" }],
      outside: [source],
    });
    const path = await ctx.store.path(set);
    chmodSync(path, 0o644);
    writeFileSync(path, "SET");
    expect(await ask(verify, { of: model, inputs: true })).toMatchObject({
      whole: false,
      artefacts: [{ whole: true }, { whole: false }, { whole: true }],
    });
    writeFileSync(path, "set");
    expect((await failure(ask(verify, { of: digest(99) }))).code).toBe("not_found");
  });
});
