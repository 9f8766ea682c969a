import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ClipRow, provide, readTable, WaverError, z } from "../../../plugins/index.ts";
import { badFiles, makeClip, threeShots } from "../../../test/support/clips.ts";
import { runOperation, type TestContext, testContext } from "../../../test/support/context.ts";
import { type CurateOutput, curate } from "../curate.ts";

// Real decoding and encoding on a machine that may be busy.
setDefaultTimeout(120_000);

const PLUGINS = [
  "segment-shots",
  "score-basic",
  "score-visual",
  "score-motion",
  "caption-sidecar",
  "embed-thumbprint",
  "select-funnel",
  "select-dedup",
  "storage-local",
];
let folder: string;
let videos: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "waver-curate-"));
  videos = join(folder, "videos");
  mkdirSync(videos);
  await threeShots(join(videos, "three.mp4"));
  await makeClip(join(videos, "still.mp4"), [{ source: "smptebars=s=160x90:r=25", seconds: 2 }], { size: "192x108" });
  await makeClip(join(videos, "fractal.mp4"), [{ source: "mandelbrot=s=160x90:r=25:start_scale=1", seconds: 3 }], {
    size: "192x108",
  });
  cpSync(join(videos, "fractal.mp4"), join(videos, "same.mp4"));
  writeFileSync(
    join(folder, "captions.csv"),
    "file,start,end,caption\nthree.mp4,0,1.6,a test card\nthree.mp4,1.6,3.6,a fractal\nthree.mp4,3.6,5,cells that grow\nfractal.mp4,,,a zoom into a fractal\nsame.mp4,,,a zoom into a fractal\nstill.mp4,,,bars\n",
  );
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Nothing moves so fast. */
const STRICT = {
  summary: "keeps nothing",
  clip: { minSeconds: 1.2, maxSeconds: 10 },
  funnel: {
    name: "strict",
    stages: [
      { id: "strict", rules: [{ id: "fast", measure: "motion.total", min: 1e6, why: "it does not move enough" }] },
    ],
  },
};

const contexts: TestContext[] = [];
afterAll(async () => {
  for (const ctx of contexts) await ctx[Symbol.asyncDispose]();
});
async function context(how: Parameters<typeof testContext>[0] = {}): Promise<TestContext> {
  const ctx = await testContext({ plugins: PLUGINS, ...how });
  contexts.push(ctx);
  return ctx;
}

const run = async (ctx: TestContext, more: Record<string, unknown> = {}): Promise<CurateOutput> =>
  (await runOperation(
    curate,
    { sources: [videos], captions: join(folder, "captions.csv"), set: { name: "toy" }, ...more },
    ctx,
  )) as CurateOutput;
const table = (output: CurateOutput): Promise<ClipRow[]> => readTable({ files: [output.table.path] });
const failure = (work: Promise<unknown>): Promise<WaverError> =>
  work.then(
    () => {
      throw new Error("it did not fail");
    },
    (error) => {
      if (error instanceof WaverError) return error;
      throw error;
    },
  );

describe("curate", () => {
  test("a set without a clip says so, with the rule that left most out", async () => {
    const ctx = await context();
    const recipe = join(folder, "strict.json");
    writeFileSync(recipe, JSON.stringify(STRICT));
    const output = await run(ctx, { recipe });
    expect(output).toMatchObject({ clips: 6, kept: 0 });
    const [warning] = output.warnings;
    expect(output.warnings).toHaveLength(1);
    expect(warning).toStartWith("the set toy is empty, for none of 6 clips was kept: strict/fast left out 6 (");
    expect(warning).toContain("waver funnel toy");
    expect(ctx.logged.map(({ event }) => event)).toContain("nothing_kept");
  });

  test("real video in, a set with lineage out, and a reason for every clip that stayed out", async () => {
    const ctx = await context();
    const output = await run(ctx);
    expect(output).toMatchObject({ shots: 6, short: 0, clips: 6, kept: 4, embeddedBy: "thumbprint" });
    const rows = await table(output);
    const byPath = (name: string): ClipRow[] => rows.filter((row) => row.path.endsWith(name));
    expect(byPath("three.mp4").map((row) => [row.start, row.end, row.caption])).toEqual([
      [0, 1.6, "a test card"],
      [1.6, 3.6, "a fractal"],
      [3.6, 5, "cells that grow"],
    ]);
    expect(byPath("still.mp4")[0]).toMatchObject({
      dropped: "nano/still",
      caption: "bars",
      scores: { "visual.still": 1, "basic.fps": 25 },
    });
    // Two encodings of one picture differ a little.
    expect(byPath("still.mp4")[0]?.scores["motion.total"]).toBeLessThan(0.2);
    expect(byPath("still.mp4")[0]?.reason).toContain("visual.still is 1, over 0.9");
    expect([...byPath("fractal.mp4"), ...byPath("same.mp4")].map((row) => row.dropped).sort()).toEqual([
      "dedup/exact",
      null,
    ]);
    expect(output.dropped).toEqual([
      { rule: "nano/still", clips: 1, kept: 5 },
      { rule: "dedup/exact", clips: 1, kept: 4 },
    ]);
    expect(rows.every((row) => row.embedding?.length === 111)).toBe(true);

    const set = await readTable({ files: [join(output.set.path, "part-00000.parquet")] });
    expect(set).toHaveLength(4);
    expect(set.every((row) => row.caption !== null && row.dropped === null && row.embedding === null)).toBe(true);
    expect(set.find((row) => row.caption === "a test card")?.scores["motion.total"]).toBeGreaterThan(0);

    const lineage = await ctx.store.lineage(output.set.digest);
    expect(lineage).toMatchObject({ kind: "set", name: "toy", meta: { clips: 4 } });
    expect(lineage?.inputs[0]).toEqual({ role: "table", digest: output.table.digest });
    expect(await ctx.store.children(output.sources[0]?.digest as never)).toContain(output.table.digest);
    expect(await ctx.store.verify(output.set.digest)).toBe(true);
    // Frames of a set's row: what training reads.
    const [row] = set as [ClipRow];
    let frames = 0;
    for await (const batch of ctx.media.frames(
      row.path,
      { width: 32, height: 32, fit: "cover", rate: 8, format: "rgb24", batch: 8 },
      row,
    ))
      frames += batch.count;
    expect(frames).toBe(Math.ceil((row.end - row.start) * 8 - 1e-3));
  });

  test("the same input gives the same digests, and a second attempt of a job computes nothing", async () => {
    const home = join(folder, "resumed");
    const first = await context({ home });
    const a = await run(first);
    const second = await context({ home });
    const b = await run(second);
    expect([b.set.digest, b.table.digest]).toEqual([a.set.digest, a.table.digest]);
    expect(second.units.done).toEqual([]);
    expect(new Set(second.units.found)).toEqual(new Set(first.units.done));
  });

  test("a cancelled job goes on at the last clip", async () => {
    const home = join(folder, "cancelled");
    const first = await context({ home });
    const progress = first.progress;
    Object.assign(first, {
      progress: (done: number, total: number, stage = "") => {
        progress(done, total, stage);
        if (stage === "clips" && done === 2) first.cancel();
      },
    });
    expect((await failure(run(first))).code).toBe("cancelled");
    const finished = first.units.done.filter((key) => key.startsWith("measure")).length;
    expect(finished).toBeGreaterThanOrEqual(2);
    const second = await context({ home });
    const output = await run(second);
    expect(output.clips).toBe(6);
    expect(second.units.found.filter((key) => key.startsWith("measure")).length).toBe(finished);
  });

  test("bad files are lines of the report, the rest goes on", async () => {
    const odd = join(folder, "odd");
    mkdirSync(odd);
    const bad = await badFiles(odd);
    cpSync(join(videos, "fractal.mp4"), join(odd, "red kite.mp4"));
    const ctx = await context();
    const output = await run(ctx, { sources: [odd, bad.missing, join(folder, "no such folder")], captions: undefined });
    const codes = Object.fromEntries(output.sources.map(({ path, error }) => [path.split("/").at(-1), error?.code]));
    expect(codes).toEqual({
      "cut.mp4": "media_unreadable",
      "empty.mp4": "media_empty",
      "one-frame.mp4": "media_too_short",
      "red kite.mp4": undefined,
      "text.mp4": "media_unreadable",
      "missing.mp4": "media_missing",
      "no such folder": "media_missing",
    });
    for (const { error } of output.sources) expect(error?.message ?? "").not.toMatch(/\n|0x|\/tmp/);
    expect((await table(output))[0]).toMatchObject({ caption: "red kite", captionBy: "filename" });
    expect(ctx.logged.some(({ event }) => event === "caption_from_filename")).toBe(true);
    expect(output.kept).toBe(1);
  });

  test("each selector gets what it takes, in whatever order and number they are picked", async () => {
    const alone = await run(await context(), { selectors: [{ id: "dedup" }] });
    expect(alone.dropped).toEqual([{ rule: "dedup/exact", clips: 1, kept: 5 }]);
    const turned = await run(await context(), { selectors: [{ id: "dedup" }, { id: "funnel" }] });
    expect(turned.dropped.map(({ rule }) => rule).sort()).toEqual(["dedup/exact", "nano/still"]);
    const ctx = await context();
    await run(ctx, { selectors: [{ id: "dedup" }], stage: "nano", captioners: [{ id: "filename" }] });
    expect(ctx.logged.flatMap(({ event, fields }) => (event === "setting_ignored" ? [fields["setting"]] : []))).toEqual(
      ["captions", "stage"],
    );
  });

  // Root may read everything.
  test.skipIf(process.getuid?.() === 0)(
    "a folder and a file that may not be read are lines of the report",
    async () => {
      const closed = join(folder, "closed");
      mkdirSync(closed);
      cpSync(join(videos, "fractal.mp4"), join(folder, "mine.mp4"));
      for (const path of [closed, join(folder, "mine.mp4")]) chmodSync(path, 0);
      const output = await run(await context(), { sources: [videos, closed, join(folder, "mine.mp4")] });
      const refused = output.sources.flatMap(({ error }) => error ?? []);
      expect(refused.map(({ code, message }) => [code, message])).toEqual([
        ["media_unreadable", "closed may not be read by this user"],
        ["media_unreadable", "mine.mp4 may not be read by this user"],
      ]);
    },
  );

  test("nothing usable at all is an error that says why", async () => {
    const ctx = await context();
    const bad = await badFiles(folder);
    expect((await failure(run(ctx, { sources: [bad.text] }))).code).toBe("media_unreadable");
    expect((await failure(run(ctx, { sources: [join(folder, "gone")] }))).code).toBe("media_missing");
    mkdirSync(join(folder, "hollow"), { recursive: true });
    expect((await failure(run(ctx, { sources: [join(folder, "hollow")] }))).code).toBe("not_found");
    expect((await failure(run(ctx, { recipe: "unheard-of" }))).hint).toContain("nano");
    expect((await failure(run(ctx, { minSeconds: 60, maxSeconds: 90 }))).code).toBe("media_too_short");
    expect((await failure(run(ctx, { captions: join(folder, "none.csv") }))).code).toBe("not_found");
  });

  test("long shots are cut where most happens; shots under the minimum are counted", async () => {
    const long = join(folder, "long.mp4");
    // Ten seconds that hardly change, then ten that do.
    await makeClip(
      long,
      [
        {
          source: "gradients=s=160x90:r=10:c0=red:c1=blue:n=2:speed=0.00001:seed=3,trim=duration=8,setpts=PTS-STARTPTS",
          seconds: 8,
        },
        { source: "mandelbrot=s=160x90:r=10:start_scale=2:end_pts=60", seconds: 8 },
      ],
      { fps: 10 },
    );
    const ctx = await context();
    const output = await run(ctx, {
      sources: [long],
      maxSeconds: 4,
      minSeconds: 2,
      segment: { id: "content", threshold: 200 },
      captions: undefined,
      selectors: [],
    });
    const rows = await table(output);
    expect(output.shots).toBe(1);
    expect(rows.length).toBeGreaterThanOrEqual(3);
    expect(rows.every((row) => Math.abs(row.end - row.start - 4) < 1e-6)).toBe(true);
    expect(rows.every((row, i) => i === 0 || row.start >= (rows[i - 1] as ClipRow).end - 1e-6)).toBe(true);
    const all = await run(await context(), { minSeconds: 1.7, captions: undefined });
    expect([all.short, all.clips]).toEqual([2, 4]);
  });

  test("a set goes to a folder of its own, an older set there is replaced, other files are left alone", async () => {
    const ctx = await context();
    const out = join(folder, "out", "set");
    const output = await run(ctx, { set: { name: "toy", output: out } });
    expect(output.set.path).toBe(out);
    expect(readdirSync(out).sort()).toEqual(["part-00000.parquet", "set.json"]);
    await run(ctx, { set: { name: "toy", output: out } });
    expect(readdirSync(join(folder, "out"))).toEqual(["set"]);
    const mine = join(folder, "mine");
    mkdirSync(mine);
    writeFileSync(join(mine, "letter.txt"), "dear");
    expect((await failure(run(ctx, { set: { name: "toy", output: mine } }))).code).toBe("conflict");
    expect(existsSync(join(mine, "letter.txt"))).toBe(true);
  });

  test("a scorer that throws on one clip costs that clip, one that always throws ends the job", async () => {
    const view = { width: 8, height: 8, fit: "stretch", rate: 1, format: "gray8", batch: 4 } as const;
    const moody = (when: (path: string) => boolean) =>
      provide("score", {
        id: "moody",
        summary: "throws",
        runs: "worker",
        options: z.strictObject({}),
        traits: { view, measures: ["x"] },
        async run({ source }) {
          if (when(source.path)) throw new Error("no");
          return { x: 1 };
        },
      });
    const scorers = [{ id: "basic" }, { id: "moody" }];
    const some = await run(await context({ provide: [moody((path) => path.endsWith("still.mp4"))] }), { scorers });
    const row = (await table(some)).find((each) => each.path.endsWith("still.mp4"));
    expect([row?.dropped, row?.reason]).toEqual(["curate/error", "no"]);
    expect(some.kept).toBeGreaterThan(2);
    expect((await failure(run(await context({ provide: [moody(() => true)] }), { scorers }))).message).toBe("no");
  });

  test("a captioner that looks is asked for kept clips only, and a clip without words is dropped", async () => {
    const asked: string[] = [];
    const seer = provide("caption", {
      id: "seer",
      summary: "looks",
      runs: "worker",
      options: z.strictObject({}),
      traits: { view: { width: 8, height: 8, fit: "stretch", rate: 1, format: "gray8", batch: 4 } },
      async run({ source }) {
        asked.push(source.path.split("/").at(-1) as string);
        return source.path.endsWith("three.mp4") ? null : { text: "seen", by: "seer" };
      },
    });
    const output = await run(await context({ provide: [seer] }), {
      captioners: [{ id: "sidecar" }, { id: "seer" }],
      captions: undefined,
    });
    expect(asked.sort()).toEqual(["fractal.mp4", "three.mp4", "three.mp4", "three.mp4"]);
    expect(output.dropped.at(-1)).toEqual({ rule: "curate/caption", clips: 3, kept: 1 });
  });

  test("kill -9 in the middle: the next start ends with the digests of an undisturbed run", async () => {
    const clean = await run(await context());
    const home = join(folder, "killed");
    const request = { sources: [videos], captions: join(folder, "captions.csv"), set: { name: "toy" } };
    const root = join(import.meta.dir, "../../..");
    const program = `
      import { runOperation, testContext } from ${JSON.stringify(join(root, "test/support/context.ts"))};
      import { curate } from ${JSON.stringify(join(root, "daemon/operations/curate.ts"))};
      const ctx = await testContext({ home: ${JSON.stringify(home)}, plugins: ${JSON.stringify(PLUGINS)} });
      Object.assign(ctx, { progress: (done, total, stage) => process.stdout.write(stage + " " + done + ";") });
      await runOperation(curate, ${JSON.stringify(request)}, ctx);`;
    for (const point of ["sources 1", "clips 1", "clips 3", "selectors 1"]) {
      const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "ignore" });
      let seen = "";
      for await (const chunk of child.stdout) {
        seen += new TextDecoder().decode(chunk);
        if (seen.includes(`${point};`)) child.kill("SIGKILL");
      }
      await child.exited;
      expect(seen).toContain(point);
    }
    const ctx = await context({ home });
    const output = await run(ctx);
    expect([output.set.digest, output.table.digest]).toEqual([clean.set.digest, clean.table.digest]);
    expect(ctx.units.found.filter((key) => key.startsWith("measure")).length).toBeGreaterThanOrEqual(3);
    expect(readdirSync(join(home, "store")).sort()).toEqual(["children", "lineage", "objects"]);
  });
});
