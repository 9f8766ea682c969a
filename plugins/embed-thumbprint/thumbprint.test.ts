import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { ffmpeg, makeClip } from "../../test/support/clips.ts";
import { type TestContext, testContext } from "../../test/support/context.ts";
import type { FrameView } from "../types.ts";

let ctx: TestContext;
beforeAll(async () => {
  ctx = await testContext({ plugins: ["embed-thumbprint"] });
});
afterAll(() => ctx[Symbol.asyncDispose]());

async function printOf(path: string): Promise<Float32Array> {
  const source = await ctx.media.probe(path);
  const view = ctx.providers("embed")[0]?.traits.view as FrameView;
  const embed = await ctx.use("embed", "thumbprint");
  return embed({
    source,
    clip: { id: source.id, source: source.id, start: 0, end: source.duration },
    frames: ctx.media.frames(path, view),
  });
}

const cosine = (a: Float32Array, b: Float32Array): number =>
  a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);

test("a re-encoded, resized and darkened copy is near, other scenes are far", async () => {
  const original = await makeClip(join(ctx.home, "a.mp4"), [{ source: "mandelbrot=s=320x180:r=25", seconds: 2 }], {
    size: "320x180",
  });
  const copy = join(ctx.home, "copy.mp4");
  await ffmpeg(
    "-i",
    original,
    "-vf",
    "scale=200:112,eq=brightness=-0.08",
    "-c:v",
    "libx264",
    "-crf",
    "32",
    "-r",
    "15",
    copy,
  );
  const other = await makeClip(join(ctx.home, "b.mp4"), [{ source: "testsrc2=s=160x90:r=25", seconds: 2 }]);
  const third = await makeClip(join(ctx.home, "c.mp4"), [
    { source: "life=s=160x90:r=25:mold=10:life_color=#ff8800:death_color=#0044aa:ratio=0.3:seed=7", seconds: 2 },
  ]);
  const [a, b, c, d] = [await printOf(original), await printOf(copy), await printOf(other), await printOf(third)];
  expect(a.length).toBe(111);
  expect(cosine(a, a)).toBeCloseTo(1, 5);
  expect(cosine(a, b)).toBeGreaterThan(0.97);
  for (const [x, y] of [
    [a, c],
    [a, d],
    [c, d],
  ] as const)
    expect(cosine(x, y)).toBeLessThan(0.7);
});
