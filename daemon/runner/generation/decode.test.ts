import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, randn, scope, setThreads, type Tensor, zeros } from "../../../native/index.ts";
import type { Codec } from "../../../plugins/index.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import { tinyVae } from "../../../test/support/tiny-model.ts";
import { decoded, forgetDecode } from "./decode.ts";
import { Preview } from "./preview.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "waver-decode-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
beforeAll(() => tinyVae(join(scratch, "vae")));

/** 17 frames of 32 x 24: five latent frames, one a chunk. */
const latentsOf = (seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn([1, 4, 5, 4, 3], { generator });
};
const chunked = (): WanVae => WanVae.load(join(scratch, "vae"), { device: "cpu", perChunk: 1 });

/** All frames, or as many as come before `until` of them is reached; `taken` counts what the codec decoded itself. */
async function frames(
  codec: Codec,
  stem: string | undefined,
  isDue: boolean,
  until = Number.POSITIVE_INFINITY,
): Promise<Uint8Array[]> {
  using latents = latentsOf(5);
  using video = decoded(codec, latents, {
    fps: 8,
    keep: false,
    resume: stem,
    isDue: () => isDue,
    breathe: async () => undefined,
  });
  const all: Uint8Array[] = [];
  for await (const { data, count, width, height, times } of video.frames) {
    expect(times[0]).toBeCloseTo(all.length / 8);
    for (let i = 0; i < count; i++) all.push(data.slice(i * width * height * 3, (i + 1) * width * height * 3));
    if (all.length >= until) break;
  }
  return all;
}

describe("a killed decode", () => {
  test("goes on after its last saved chunk and gives the same frames", async () => {
    await using codec = chunked();
    const whole = await frames(codec, undefined, false);
    expect(whole.length).toBe(17);
    for (const until of [1, 5, 9, 13]) {
      const stem = join(scratch, `after-${until}`);
      await frames(codec, stem, true, until);
      let asked = 0;
      const counting = {
        decoder: (...given: Parameters<WanVae["decoder"]>) => {
          const inner = codec.decoder(...given);
          return {
            ...inner,
            next: () => {
              asked++;
              return inner.next();
            },
          };
        },
      } as unknown as Codec;
      expect(await frames(counting, stem, true)).toEqual(whole);
      // five chunks and the end; those from before the kill are read, not decoded
      expect(asked).toBe(6 - (1 + (until - 1) / 4));
      await forgetDecode(stem);
      expect(existsSync(`${stem}.decode`) || existsSync(`${stem}.rgb`)).toBe(false);
    }
  });

  test("begins anew where nothing was saved yet, where it was lost, or where the codec goes through at once", async () => {
    await using codec = chunked();
    const whole = await frames(codec, undefined, false);
    const stem = join(scratch, "unsaved");
    await frames(codec, stem, false, 9);
    expect(existsSync(`${stem}.decode`)).toBe(false);
    expect(await frames(codec, stem, true)).toEqual(whole);
    rmSync(`${stem}.rgb`);
    expect(await frames(codec, stem, true)).toEqual(whole);
    const tiling = { size: [64, 64], stride: [48, 48] } as const; // of tiles none can be left
    await using atOnce = WanVae.load(join(scratch, "vae"), { device: "cpu", tiling });
    await frames(atOnce, join(scratch, "at-once"), true);
    expect(existsSync(join(scratch, "at-once.decode"))).toBe(false);
  });
});

describe("a preview", () => {
  const at = { step: 0, numSteps: 10, t: 0.5 };

  test("shows what the prediction points to, for both conventions", async () => {
    await using codec = chunked();
    using clean = latentsOf(1);
    using noise = latentsOf(2);
    using oneFrame = clean.narrow(2, 2, 1);
    using expected = codec.decode(oneFrame);
    for (const predicts of ["noise-data", "data-noise"] as const) {
      let now = 0;
      using preview = new Preview({ timeScale: 1, predicts }, () => now);
      using noisy = scope(() => clean.mul(0.5).add(noise.mul(0.5)));
      using velocity = predicts === "noise-data" ? noise.sub(clean) : clean.sub(noise);
      using time = zeros([1]);
      const predict = preview.watching(() => velocity);
      predict(noisy, time, at);
      expect(preview.isReady).toBe(false);
      now = 1500;
      predict(noisy, time, at);
      const picture = preview.take(codec);
      expect([picture?.width, picture?.height]).toEqual([24, 32]);
      const [pixels, wanted] = [picture?.pixels as Uint8Array, expected.toFloat32Array()];
      // planes there, packed here
      for (const i of [0, 100, 700])
        expect(Math.abs((pixels[3 * i + 1] as number) - 255 * ((wanted[768 + i] as number) / 2 + 0.5))).toBeLessThan(1);
    }
  });

  test("takes a twentieth of the time at most", async () => {
    let now = 0;
    const slow = {
      decode: (latents: Tensor) => {
        now += 400;
        return zeros([1, 3, 1, latents.size(3) * 8, latents.size(4) * 8]);
      },
    };
    using preview = new Preview({ timeScale: 1, predicts: "noise-data" }, () => now);
    using noisy = latentsOf(1);
    using time = zeros([1]);
    const predict = preview.watching((latents) => latents);
    let taken = 0;
    for (let step = 0; step < 400; step++) {
      now += 100;
      predict(noisy, time, at);
      if (preview.isReady && preview.take(slow) !== undefined) taken++;
    }
    // forty seconds of steps: two seconds for previews
    expect(taken).toBeGreaterThan(2);
    expect(taken * 400).toBeLessThanOrEqual(0.06 * now);
  });

  test("of large latents is small", () => {
    let now = 0;
    using preview = new Preview({ timeScale: 1, predicts: "noise-data" }, () => now);
    using large = zeros([1, 4, 2, 90, 160]);
    using time = zeros([1]);
    now = 2000;
    preview.watching((latents) => latents)(large, time, at);
    const picture = preview.take({ decode: (x) => zeros([1, 3, 1, x.size(3) * 8, x.size(4) * 8]) });
    expect([picture?.width, picture?.height]).toEqual([424, 240]);
  });
});
