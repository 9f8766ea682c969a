import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { badFiles, makeClip, threeShots } from "../../test/support/clips.ts";
import { type TestContext, testContext } from "../../test/support/context.ts";
import type { WaverError } from "../errors.ts";
import type { ClipFrames, FrameView } from "../types.ts";
import { ContentDetector } from "./detectors.ts";

let ctx: TestContext;
beforeAll(async () => {
  ctx = await testContext({ plugins: ["segment-shots", "embed-thumbprint"] });
});
afterAll(async () => {
  await ctx[Symbol.asyncDispose]();
  rmSync(ctx.home, { recursive: true, force: true });
});

async function whole(path: string, id: string): Promise<ClipFrames> {
  const source = await ctx.media.probe(path);
  const view = ctx.providers("segment").find((each) => each.id === id)?.traits.view as FrameView;
  return {
    source,
    clip: { id: source.id, source: source.id, start: 0, end: source.duration },
    frames: ctx.media.frames(path, view),
  };
}

describe("shots", () => {
  test("hard cuts are found on their frame by both detectors", async () => {
    const path = await threeShots(join(ctx.home, "three.mp4"));
    for (const id of ["content", "adaptive"]) {
      const cut = await ctx.use("segment", id);
      const shots = await cut(await whole(path, id));
      expect(shots.map(({ start, end }) => [Math.round(start * 25), Math.round(end * 25)])).toEqual([
        [0, 40],
        [40, 90],
        [90, 125],
      ]);
    }
  });

  test("one unbroken take is one shot, however much it moves", async () => {
    const path = await makeClip(join(ctx.home, "take.mp4"), [{ source: "mandelbrot=s=160x90:r=25", seconds: 4 }]);
    const cut = await ctx.use("segment", "content");
    expect(await cut(await whole(path, "content"))).toEqual([{ start: 0, end: 4 }]);
  });

  test("a fade through black is a cut for the fade detector", async () => {
    const path = await makeClip(join(ctx.home, "fade.mp4"), [
      { source: "testsrc2=s=160x90:r=25,fade=t=out:st=1.5:d=0.5", seconds: 2 },
      { source: "mandelbrot=s=160x90:r=25,fade=t=in:st=0:d=0.5", seconds: 2 },
    ]);
    const cut = await ctx.use("segment", "fade");
    const shots = await cut(await whole(path, "fade"));
    expect(shots).toHaveLength(2);
    expect(Math.abs((shots[0]?.end ?? 0) - 2)).toBeLessThan(0.2);
  });

  test("features find a change that is too slow for colours", async () => {
    const path = await makeClip(join(ctx.home, "dissolve.mp4"), [
      {
        source:
          "testsrc2=s=160x90:r=25:d=6[a];mandelbrot=s=160x90:r=25,trim=duration=6[b];[a][b]xfade=transition=fade:duration=2:offset=2",
        seconds: 6,
      },
    ]);
    const cut = await ctx.use("segment", "content");
    expect(await cut(await whole(path, "content"))).toHaveLength(1);
    const refined = await ctx.use("segment", "content", { refine: { embed: "thumbprint", threshold: 0.9 } });
    const shots = await refined(await whole(path, "content"));
    expect(shots.length).toBeGreaterThanOrEqual(2);
    expect(shots.some(({ start }) => start >= 2 && start <= 4)).toBe(true);
  });

  test("one frame is no shot", async () => {
    const { oneFrame } = await badFiles(ctx.home);
    const cut = await ctx.use("segment", "content");
    const error = await cut(await whole(oneFrame, "content")).then(
      () => null,
      (each: unknown) => each as WaverError,
    );
    expect(error?.code).toBe("media_too_short");
  });

  test("a flash is no shot: cuts closer than the minimum are merged", () => {
    const grey = (level: number): Uint8Array => new Uint8Array(16 * 16 * 3).fill(level);
    const detector = new ContentDetector(16, 16, {
      threshold: 27,
      minSceneLen: 10,
      weights: { hue: 1, sat: 1, lum: 1, edges: 0 },
    });
    const cuts: number[] = [];
    for (let frame = 0; frame < 80; frame++)
      cuts.push(...detector.next(grey(frame < 20 ? 0 : frame === 22 ? 255 : 120)));
    expect(cuts).toEqual([20]);
  });
});
