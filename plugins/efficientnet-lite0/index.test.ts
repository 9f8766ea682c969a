import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ones, scope } from "../../native/index.ts";
import { makeClip } from "../../test/support/clips.ts";
import { testContext } from "../../test/support/context.ts";
import type { ClipFrames, FrameView } from "../types.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-embed-"));

test("clips of one kind are nearer to each other than to another kind", async () => {
  try {
    await using ctx = await testContext({ plugins: ["efficientnet-lite0"] });
    const embed = await ctx.use("embed", "efficientnet-lite0");
    const { view } = ctx.providers("embed")[0]!.traits as { view: FrameView };
    const features = async (name: string, source: string, crf: number): Promise<Float32Array> => {
      const path = await makeClip(join(folder, name), [{ source, seconds: 1 }], { crf });
      const found = await ctx.media.probe(path);
      const clip = { id: found.id, source: found.id, start: 0, end: 1 };
      return embed({ clip, source: found, frames: ctx.media.frames(path, view) } satisfies ClipFrames);
    };
    const cosine = (a: Float32Array, b: Float32Array): number =>
      a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
    const bars = await features("bars.mp4", "smptehdbars=s=160x90:r=25", 18);
    const worn = await features("worn.mp4", "smptehdbars=s=160x90:r=25", 40);
    const fractal = await features("fractal.mp4", "mandelbrot=s=160x90:r=25", 18);
    expect(bars.length).toBe(1280);
    expect(cosine(bars, bars)).toBeCloseTo(1, 5);
    expect(cosine(bars, worn)).toBeGreaterThan(cosine(bars, fractal) + 0.1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 120_000);

test("perceive gives five maps", async () => {
  await using ctx = await testContext({ plugins: ["efficientnet-lite0"] });
  const network = await (await ctx.use("perceive", "efficientnet-lite0"))({});
  scope(() =>
    expect(network.features(ones([2, 3, 64, 64])).map((map) => map.shape[1])).toEqual([16, 24, 40, 112, 320]),
  );
});
