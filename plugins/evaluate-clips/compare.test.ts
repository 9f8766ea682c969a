import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ffmpeg, makeClip } from "../../test/support/clips.ts";
import { type TestContext, testContext } from "../../test/support/context.ts";
import { roundNumbers } from "./chart.ts";
import { type Compared, compare } from "./compare.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-compare-"));
const at = (name: string): string => join(folder, name);
let ctx: TestContext;
beforeAll(async () => {
  ctx = await testContext({ plugins: [] });
  await makeClip(at("a.mp4"), [{ source: "testsrc2=s=96x64:r=8", seconds: 2 }], { size: "96x64", fps: 8 });
  await makeClip(at("small.mp4"), [{ source: "testsrc2=s=96x64:r=8", seconds: 1.5 }], { size: "48x32", fps: 8 });
  // The second half is blurred: that is where the curve must fall.
  await ffmpeg("-i", at("a.mp4"), "-vf", "boxblur=3:enable='gte(t,1)'", "-crf", "10", at("b.mp4"));
});
afterAll(async () => {
  await ctx[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});
const run = (a: string, b: string, more: { resize?: boolean; output?: string } = {}): Promise<Compared> =>
  compare({ a: at(a), b: at(b), resize: false, ...more }, ctx);

describe("two clips", () => {
  test("that are the same are equal in every frame", async () => {
    expect(await run("a.mp4", "a.mp4")).toMatchObject({ numFrames: 16, unmatched: 0, psnr: 100, ssim: 1 });
  });

  test("that part half way show it in the frames", async () => {
    const compared = await run("a.mp4", "b.mp4");
    const [before, after] = [compared.frames.slice(0, 8), compared.frames.slice(8)];
    expect(Math.min(...before.map((frame) => frame.psnr))).toBeGreaterThan(
      Math.max(...after.map((frame) => frame.psnr)) + 5,
    );
    expect(compared.worst.frame).toBeGreaterThanOrEqual(8);
  });

  test("have the figures that ffmpeg gives, where no colour is converted on the way", async () => {
    const rgb = ["-c:v", "libx264rgb", "-qp", "0"];
    for (const name of ["a", "b"])
      await ffmpeg("-i", at(`${name}.mp4`), "-vf", "format=gbrp", ...rgb, at(`${name}-rgb.mp4`));
    const compared = await run("a-rgb.mp4", "b-rgb.mp4");
    const measure = `[0:v][1:v]psnr=stats_file=${at("psnr.log")}`;
    await ffmpeg("-i", at("a-rgb.mp4"), "-i", at("b-rgb.mp4"), "-lavfi", measure, "-f", "null", "-");
    const theirs = [...readFileSync(at("psnr.log"), "utf8").matchAll(/psnr_avg:([\d.]+)/g)].map(([, value]) =>
      Number(value),
    );
    expect(theirs.length).toBe(16);
    // two digits are printed
    for (const [i, value] of theirs.entries()) expect(compared.frames[i]?.psnr).toBeCloseTo(value, 1.9);
  });

  test("of different sizes are compared when asked, and frames without a counterpart are counted", async () => {
    await expect(run("a.mp4", "small.mp4")).rejects.toMatchObject({
      code: "shape_mismatch",
      message: "a.mp4 is 96 x 64 and small.mp4 is 48 x 32",
      hint: expect.stringContaining("--resize"),
    });
    const compared = await run("a.mp4", "small.mp4", { resize: true });
    expect(compared).toMatchObject({ width: 96, height: 64, numFrames: 12, unmatched: 4 });
    expect(compared.psnr).toBeGreaterThan(15);
  });

  test("too small for the window of SSIM have none", async () => {
    await makeClip(at("tiny.mp4"), [{ source: "testsrc2=s=96x64:r=8", seconds: 0.5 }], { size: "16x8", fps: 8 });
    expect(await run("tiny.mp4", "tiny.mp4")).toMatchObject({ ssim: null, psnr: 100 });
  });
});

describe("the chart", () => {
  test("is one file that loads nothing and holds a point a frame", async () => {
    const { chart } = await run("a.mp4", "b.mp4", { output: at("out/chart.html") });
    expect(chart).toBe(at("out/chart.html"));
    expect(existsSync(`${chart}.tmp`)).toBe(false);
    const text = readFileSync(chart as string, "utf8");
    expect(text).not.toMatch(/(src|href)=|url\(|<script/);
    for (const [, d] of text.matchAll(/<path d="([^"]+)"/g)) expect((d as string).match(/[ML]/g)?.length).toBe(16);
    expect(text.match(/<svg/g)?.length).toBe(2);
    expect(text).not.toContain("NaN");
  });

  test("has round numbers on its axes", () => {
    expect(roundNumbers(28.3, 41.2, 4)).toEqual([30, 35, 40]);
    expect(roundNumbers(0.91, 1, 4)).toEqual([0.95, 1]);
    expect(roundNumbers(5, 5, 4)).toEqual([5]);
  });
});
