import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allocatedBytes,
  Generator,
  noGrad,
  peakBytes,
  randn,
  resetPeakBytes,
  scope,
  setThreads,
  type Tensor,
  zeros,
} from "../../../native/index.ts";
import type { Codec } from "../../../plugins/index.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import { tinyVae } from "../../../test/support/tiny-model.ts";
import { decoded, forgetDecode } from "./decode.ts";
import { previewBytes } from "./outlines.ts";
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

const how = { fps: 8, keep: false, breathe: async (): Promise<void> => undefined };

/** The codec's decoder, telling each time that it is asked for something. */
const counted = (codec: WanVae, onNext: () => void): Codec =>
  ({
    decoder: (...given: Parameters<WanVae["decoder"]>) => {
      const inner = codec.decoder(...given);
      return {
        ...inner,
        next() {
          onNext();
          return inner.next();
        },
      };
    },
  }) as unknown as Codec;

/** All frames, or as many as come before `until` of them is reached; `taken` counts what the codec decoded itself. */
async function frames(
  codec: Codec,
  stem: string | undefined,
  isDue: boolean,
  until = Number.POSITIVE_INFINITY,
): Promise<Uint8Array[]> {
  using latents = latentsOf(5);
  using video = decoded(codec, latents, { ...how, resume: stem, isDue: () => isDue });
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
      const counting = counted(codec, () => asked++);
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
    using latents = scope(() => latentsOf(5).narrow(2, 0, 1)); // a picture is one chunk
    using video = decoded(codec, latents, { ...how, resume: join(scratch, "at-once"), isDue: () => true });
    expect(await Array.fromAsync(video.frames)).toHaveLength(1);
    expect(existsSync(join(scratch, "at-once.decode"))).toBe(false);
  });
});

describe("a killed decode in tiles", () => {
  // 4 rows of 3 tiles, each of five latent frames, joined when they are there
  const tiling = { size: [16, 16], stride: [8, 8] } as const;
  const [perTile, all] = [5 + 1, 4 * 3 * (5 + 1) + 5 + 1];
  const inTiles = (): WanVae => WanVae.load(join(scratch, "vae"), { device: "cpu", tiling });

  /** All pixels and how often the codec was asked, or undefined where it was killed after so many times. */
  async function pixels(stem: string | undefined, killedAfter = Number.POSITIVE_INFINITY) {
    await using codec = inTiles();
    using latents = latentsOf(5);
    let asked = 0;
    const counting = counted(codec, () => asked++);
    const breathe = async (): Promise<void> => {
      if (asked >= killedAfter) throw new Error("killed");
    };
    using video = decoded(counting, latents, { ...how, resume: stem, isDue: () => true, breathe });
    try {
      const batches = await Array.fromAsync(video.frames);
      expect(batches.map(({ count }) => count)).toEqual([1, 4, 4, 4, 4]);
      return { pixels: Buffer.concat(batches.map(({ data }) => data)), asked };
    } catch (error) {
      expect((error as Error).message).toBe("killed");
      return undefined;
    }
  }

  test("goes on after its last whole tile and gives the same frames", async () => {
    const whole = (await pixels(undefined)) as NonNullable<Awaited<ReturnType<typeof pixels>>>;
    expect(whole.asked).toBe(all);
    {
      await using codec = inTiles();
      using latents = latentsOf(5);
      using video = noGrad(() => codec.decode(latents));
      using bytes = scope(() =>
        video.div(2).add(0.5).clamp(0, 1).select(0, 0).permute([1, 2, 3, 0]).mul(255).round().to("uint8"),
      );
      expect(whole.pixels.equals(bytes.toArray() as Uint8Array)).toBe(true);
    }
    // within the first tile; after it; within a row and at its end; in the last tile; when all are there; among frames
    for (const killedAfter of [3, 6, 29, 36, 70, 72, 74]) {
      const stem = join(scratch, `tiles-${killedAfter}`);
      expect(await pixels(stem, killedAfter)).toBeUndefined();
      const done = Math.min(12, Math.floor(killedAfter / perTile));
      expect(existsSync(`${stem}.decode`)).toBe(done > 0);
      const resumed = await pixels(stem);
      expect(resumed?.pixels.equals(whole.pixels)).toBe(true);
      expect(resumed?.asked).toBe(all - done * perTile);
      await forgetDecode(stem);
      expect(existsSync(`${stem}.decode`) || existsSync(`${stem}.rgb`)).toBe(false);
    }
    // twice, with more tiles each time
    const stem = join(scratch, "twice");
    await pixels(stem, 20);
    await pixels(stem, 20);
    expect(await pixels(stem)).toEqual({ pixels: whole.pixels, asked: all - 6 * perTile });
  });

  test("holds no more than one that is not saved", async () => {
    await using codec = inTiles();
    using latents = latentsOf(5);
    const peakOf = async (resume: string | undefined): Promise<number> => {
      const before = allocatedBytes();
      resetPeakBytes();
      using video = decoded(codec, latents, { ...how, resume, isDue: () => true });
      for await (const _ of video.frames);
      return peakBytes() - before;
    };
    const plain = await peakOf(undefined);
    expect(await peakOf(join(scratch, "memory"))).toBeLessThan(1.01 * plain);
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

  test("takes what a plan says, where there is time for one", async () => {
    await using real = chunked();
    await using outlined = WanVae.load(join(scratch, "vae"), { device: "meta" });
    using large = zeros([1, 4, 2, 90, 160]);
    using time = zeros([1]);
    let now = 0;
    using preview = new Preview({ timeScale: 1, predicts: "noise-data" }, () => now);
    const predict = preview.watching((latents) => latents);
    now = 1000;
    predict(large, time, at);
    const before = allocatedBytes();
    resetPeakBytes();
    preview.take(real);
    const taken = peakBytes() - before;
    expect(Math.abs(taken / previewBytes("cpu", outlined, large.shape, 2) - 1)).toBeLessThan(0.02);
    expect(previewBytes("cpu", outlined, large.shape, 0.9)).toBe(0);
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
