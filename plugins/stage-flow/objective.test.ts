import { describe, expect, test } from "bun:test";
import {
  Generator,
  keep,
  Module,
  normalInit,
  ones,
  randn,
  scope,
  setThreads,
  type Tensor,
  zeros,
} from "../../native/index.ts";
import type { Codec, Denoiser, DenoiserInput, TextEncoder } from "../index.ts";
import { FlowObjective } from "./objective.ts";
import { FlowOptions } from "./options.ts";
import { normalQuantile, shiftTime, timestep } from "./timesteps.ts";

setThreads(1);

class Scale extends Module {
  readonly weight = this.parameter([1], normalInit(1));
}

/** Networks and encoders that note what they are shown. */
class Witness {
  readonly seen: DenoiserInput[] = [];
  readonly captions: string[][] = [];
  readonly module = new Scale();
  readonly denoiser: Denoiser;
  readonly text: TextEncoder;
  readonly codec: Codec;

  constructor(how: { knownFrames?: boolean; predicts?: "noise-data" | "data-noise"; textLength?: number } = {}) {
    using generator = new Generator(1);
    this.module.init(generator);
    const latent = { channels: 2, stride: [4, 8, 8] as const };
    const condition: Denoiser["condition"] = (frames, isKnown) =>
      scope(() => {
        const T = 1 + (frames.size(2) - 1) / 4;
        const first = isKnown[0] === true ? 1 : 0;
        const shape = [frames.size(0), 2, T, frames.size(3) / 8, frames.size(4) / 8];
        return { latents: ones(shape).mul(first), mask: ones([shape[0]!, 4, ...shape.slice(2)]).mul(first) };
      });
    this.denoiser = {
      module: this.module,
      latent,
      taps: [],
      textLength: how.textLength,
      convention: { timeScale: 1, predicts: how.predicts ?? "noise-data" },
      ...(how.knownFrames === false ? {} : { condition }),
      forward: (input) => {
        const known = input.known && {
          latents: keep(input.known.latents.clone()),
          mask: keep(input.known.mask.clone()),
        };
        this.seen.push({
          ...input,
          latents: keep(input.latents.clone()),
          t: keep(input.t.clone()),
          ...(known && { known }),
        });
        return input.latents.mul(this.module.weight);
      },
      save: async () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
    this.text = {
      module: this.module,
      tokenize: (texts) => texts.map(() => [1]),
      encode: (texts, more) => {
        this.captions.push([...texts]);
        const L = more?.padTo ?? 1;
        return { states: zeros([texts.length, L, 3]), mask: ones([texts.length, L], { dtype: "bool" }) };
      },
      save: async () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
    const encode = (video: Tensor): Tensor =>
      zeros([video.size(0), 2, 1 + (video.size(2) - 1) / 4, video.size(3) / 8, video.size(4) / 8]);
    this.codec = { module: this.module, latent, encode } as unknown as Codec;
  }

  dispose(): void {
    for (const { latents, t, known } of this.seen)
      for (const each of [latents, t, known?.latents, known?.mask]) each?.dispose();
    this.module.dispose();
  }
}

async function step(
  witness: Witness,
  options: object,
  task: "t2i" | "t2v" | "i2v",
  B = 64,
  noisy = true,
): Promise<{ input: DenoiserInput; loss: number; captions: string[] }> {
  const { denoiser, text, codec } = witness;
  await using objective = new FlowObjective(
    { denoiser, text, codec, trainText: false, matmul: "float32" },
    FlowOptions.parse(options),
  );
  const loss = scope(() => {
    using generator = new Generator(7);
    const latents = noisy ? randn([B, 2, 2, 1, 1], { generator }) : zeros([B, 2, 2, 1, 1]);
    const extras = { knownLatents: ones([B, 2, 2, 1, 1]), knownMask: ones([B, 4, 2, 1, 1]) };
    const batch = { ids: [], task, captions: Array.from({ length: B }, (_, i) => `clip ${i}`), latents, extras };
    return objective.step(batch, { step: 0, generator }).loss.item();
  });
  return { input: witness.seen.at(-1)!, loss, captions: witness.captions.at(-1)! };
}

describe("flow matching", () => {
  test("shows a share of first frames, all of them for i2v, none for images", async () => {
    const witness = new Witness();
    const given = async (task: "t2i" | "t2v" | "i2v", firstFrame: number): Promise<number> => {
      const { input } = await step(witness, { firstFrame }, task);
      const mask = input.known!.mask;
      return scope(() => mask.float().mean().item());
    };
    expect(await given("t2v", 0)).toBe(0);
    expect(await given("t2v", 0.5)).toBeCloseTo(0.5, 0);
    expect(await given("t2v", 1)).toBe(1);
    expect(await given("i2v", 0)).toBe(1);
    expect(await given("t2i", 1)).toBe(0);
    // an image is the first latent frame of its clip
    expect(witness.seen.at(-1)!.latents.shape).toEqual([64, 2, 1, 1, 1]);
    witness.dispose();
  });

  test("builds no condition for a network without one, and pads text for one that wants it", async () => {
    const witness = new Witness({ knownFrames: false, textLength: 9 });
    const { input, captions } = await step(witness, { textDropout: 0 }, "t2v", 2);
    expect(input.known).toBeUndefined();
    expect(captions).toEqual(["clip 0", "clip 1"]);
    witness.dispose();
  });

  test("leaves captions out", async () => {
    const witness = new Witness();
    const { captions } = await step(witness, { textDropout: 0.5 }, "t2v");
    const share = captions.filter((caption) => caption === "").length / captions.length;
    expect(share).toBeGreaterThan(0.3);
    expect(share).toBeLessThan(0.7);
    witness.dispose();
  });

  test("points where the family says", async () => {
    const loss = async (predicts: "noise-data" | "data-noise"): Promise<number> => {
      const witness = new Witness({ predicts });
      scope(() => witness.module.weight.fill_(1));
      // x0 = 0: x_t = t n, and the network says x_t; the target is n or -n
      const { loss } = await step(
        witness,
        { timesteps: { image: { kind: "uniform" }, video: { kind: "uniform" } } },
        "t2v",
        512,
        false,
      );
      witness.dispose();
      return loss;
    };
    // mean of (t - 1)^2 and of (t + 1)^2 over t ~ U[0, 1]
    expect(await loss("noise-data")).toBeCloseTo(1 / 3, 1);
    expect(await loss("data-noise")).toBeCloseTo(7 / 3, 1);
  });

  test("one time from each stratum", async () => {
    const witness = new Witness();
    const { input } = await step(
      witness,
      { timesteps: { image: { kind: "uniform" }, video: { kind: "uniform" } }, shift: 1 },
      "t2v",
      8,
    );
    const strata = input.t
      .toNumbers()
      .map((t) => Math.floor(t * 8))
      .sort();
    expect(strata).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    witness.dispose();
  });
});

test("quantiles are those of their distributions", () => {
  expect(normalQuantile(0.975)).toBeCloseTo(1.959963984540054, 12);
  expect(timestep(0.5, { kind: "logit-normal", mean: 0.5, std: 1 })).toBeCloseTo(1 / (1 + Math.exp(-0.5)), 12);
  expect([timestep(0, { kind: "mode", scale: 1.29 }), timestep(1, { kind: "mode", scale: 1.29 })]).toEqual([1, 0]);
  expect(shiftTime(0.5, 3)).toBe(0.75);
  expect(
    FlowOptions.safeParse({ timesteps: { image: { kind: "mode", scale: 2 }, video: { kind: "uniform" } } }).success,
  ).toBe(false);
});
