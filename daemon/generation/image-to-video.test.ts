/**
 * What `generate` makes of known frames and of two denoisers, held to diffusers' pipelines written out by hand on the
 * same random weights: conditions, image tokens, times, which network predicts, and what is put back at the end.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  cat,
  Generator,
  keep,
  Module,
  noGrad,
  normal_,
  ones,
  openSafetensors,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
  zeros,
} from "../../native/index.ts";
import { readSchedulerConfig } from "../../plugins/flow/config.ts";
import { flowUniPCSchedule } from "../../plugins/flow/schedule.ts";
import { solverOf, uniPC } from "../../plugins/flow/unipc.ts";
import { type FrameBatch, type ImageEncoder, provide, type WaverError, z } from "../../plugins/index.ts";
import { T5TextEncoder } from "../../plugins/t5/encoder.ts";
import { originalName } from "../../plugins/wan/checkpoint.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { WanConfig } from "../../plugins/wan/params.ts";
import { WanVae } from "../../plugins/wan-vae/codec.ts";
import { VaeConfig } from "../../plugins/wan-vae/params.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { resizeImage } from "../media/resize.ts";
import { generate } from "../operations/generate.ts";
import { encodePng } from "./png.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const scratch = mkdtempSync(join(tmpdir(), "image-to-video-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const published = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const WIDTH = 48;
const HEIGHT = 32;
const FRAMES = 9;
const TOKENS = 12;
const IMAGE_DIM = 5;

/** A published pipeline with other networks in it. */
function pipeline(name: string, networks: Record<string, Partial<WanConfig>>, index: Record<string, unknown>): string {
  const folder = join(scratch, name);
  cpSync(published, folder, { recursive: true });
  const path = join(folder, "model_index.json");
  const before = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  rmSync(path);
  const named = Object.fromEntries(
    Object.keys(networks).map((component) => [component, ["diffusers", "WanTransformer3DModel"]]),
  );
  writeFileSync(path, JSON.stringify({ ...before, ...named, ...index }));
  for (const [at, [component, more]] of Object.entries(networks).entries()) {
    rmSync(join(folder, component), { recursive: true, force: true });
    const config = WanConfig.parse({
      ...{ num_attention_heads: 3, attention_head_dim: 12, ffn_dim: 40, freq_dim: 32, num_layers: 1, text_dim: 24 },
      ...more,
    });
    using generator = new Generator(at + 1);
    const denoiser = WanDenoiser.init(config, generator, { device: "cpu" });
    for (const weight of denoiser.module.parameters()) normal_(weight, 0, 0.2, generator);
    void denoiser.save(join(folder, component)); // writes before it returns
    denoiser.module.dispose();
  }
  return folder;
}

const noise = (shape: number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
/** A picture of another shape than the video. */
const picture = (seed: number): FrameBatch => ({
  data: Uint8Array.from({ length: 70 * 50 * 3 }, (_, i) => (i * (seed + 3) + ((i * i) >> 7)) % 256),
  ...{ count: 1, width: 70, height: 50, format: "rgb24", times: [0] },
});
const pictures = [join(scratch, "first.png"), join(scratch, "last.png")] as const;
beforeAll(() => {
  for (const [i, path] of pictures.entries()) {
    const { data, width, height } = picture(i);
    writeFileSync(path, encodePng(data, width, height, undefined));
  }
});
/** [1 3 1 H W] in [-1, 1], as the VAE sees it. */
const pixels = (i: number): Tensor =>
  scope(() => {
    const { data } = resizeImage(picture(i), { width: WIDTH, height: HEIGHT }, "stretch");
    return tensor(data).view([1, HEIGHT, WIDTH, 3]).permute([0, 3, 1, 2]).float().div(255).mul(2).sub(1).unsqueeze(2);
  });

/** An image encoder that says how bright each third of the picture is, to tell pictures and their order apart. */
const brightness = (images: Tensor): Tensor =>
  scope(() => {
    const rows = images.float().div(255).mean([1, 3]); // [B H]
    const thirds = rows.unflatten(1, [2, -1]).mean([2]); // [B 2]
    return thirds.unsqueeze(2).mul(tensor(Array.from({ length: IMAGE_DIM }, (_, i) => i - 2)));
  });
const imageEncoder = provide("encodeImage", {
  id: "brightness",
  summary: "how bright each half of a picture is",
  runs: "device",
  options: z.strictObject({ path: z.string() }),
  traits: { classes: ["BrightnessModel"] },
  run: async (): Promise<ImageEncoder> => ({
    module: new (class extends Module {})(),
    encode: brightness,
    [Symbol.asyncDispose]: async () => undefined,
  }),
});

const open = (): Promise<TestContext> =>
  testContext({ plugins: ["t5", "wan", "wan-vae", "flow", "guide-cfg"], provide: [imageEncoder] });
const request = {
  prompt: "a red ball",
  negativePrompt: "blurry",
  width: WIDTH,
  height: HEIGHT,
  numFrames: FRAMES,
  numSteps: 4,
  maxTokens: TOKENS,
  seed: 3,
  keepLatents: true,
  guide: { id: "cfg", scale: 5 },
};
/** Latents that `generate` ends with. */
async function generated(model: string, more: Record<string, unknown>): Promise<Tensor> {
  await using ctx = await open();
  const { items } = (await runOperation(generate, { ...request, model, ...more }, ctx)) as {
    items: { latents: string }[];
  };
  using file = openSafetensors(items[0]?.latents as string);
  return scope(() => file.get("latents").clone());
}
const failure = async (model: string, more: Record<string, unknown>): Promise<WaverError> => {
  await using ctx = await open();
  return await runOperation(generate, { ...request, model, ...more }, ctx).then(
    () => Promise.reject(new Error("it was made")),
    (error: WaverError) => error,
  );
};

/** diffusers' loop: two passes a step, guidance, UniPC. `network` predicts at integer time `t` of 1000. */
async function sampled(
  folder: string,
  shape: number[],
  network: (x: Tensor, t: number, text: Tensor) => Tensor,
  scale: (t: number) => number = () => 5,
): Promise<Tensor> {
  await using encoder = await T5TextEncoder.load(join(folder, "text_encoder"), {
    device: "cpu",
    maxTokens: TOKENS,
    tokenizer: join(folder, "tokenizer"),
    clean: true,
  });
  const texts = noGrad(() =>
    [request.prompt, request.negativePrompt].map((text) => encoder.encode([text], { padTo: TOKENS })),
  );
  const [positive, negative] = texts as [(typeof texts)[number], (typeof texts)[number]];
  using start = noise(shape, request.seed);
  const config = readSchedulerConfig(join(folder, "scheduler"));
  const end = await uniPC(
    {
      latents: start,
      numSteps: request.numSteps,
      convention: { timeScale: 1000, predicts: "noise-data" },
      signal: new AbortController().signal,
      predict: (x, _, { t }) =>
        noGrad(() => {
          const time = Math.round(t * 1000);
          const [cond, uncond] = [positive, negative].map(({ states }) => network(x, time, states)) as [Tensor, Tensor];
          return uncond.add(cond.sub(uncond).mul(scale(time)));
        }),
    },
    flowUniPCSchedule(config, { numSteps: request.numSteps }),
    solverOf(config),
  );
  for (const { states, mask } of texts) {
    states.dispose();
    mask.dispose();
  }
  return end;
}
const load = (folder: string, component: string): WanDenoiser =>
  WanDenoiser.load(join(folder, component), { device: "cpu" });
const closely = { atol: 1e-4, rtol: 1e-4 };

describe("known frames beside the noise", () => {
  const beside = { in_channels: 36, image_dim: IMAGE_DIM, added_kv_proj_dim: 36 };
  const encoder = { image_encoder: ["somewhere", "BrightnessModel"] };
  /** Mask and latents of the reference: grey between the given frames. */
  const condition = (vae: WanVae, last: boolean): Tensor =>
    noGrad(() =>
      scope(() => {
        const grey = zeros([1, 3, FRAMES - (last ? 2 : 1), HEIGHT, WIDTH]);
        const video = cat([pixels(0), grey, ...(last ? [pixels(1)] : [])], 2);
        const [T, h, w] = [3, HEIGHT / 8, WIDTH / 8];
        // four channels: the first frame fills those of latent frame 0, the last one is the fourth of the last
        const mask = zeros([1, 4, T, h, w]);
        mask.select(2, 0).copy_(ones([1, 4, h, w]));
        if (last)
          mask
            .select(2, T - 1)
            .select(1, 3)
            .copy_(ones([1, h, w]));
        return cat([mask, vae.encode(video)], 1);
      }),
    );

  test.each([
    ["a first frame", {}, { image: pictures[0] }, [0]],
    ["a first frame of two that count", {}, { image: pictures[0], lastImage: pictures[1] }, [0]],
    ["first and last frame", { pos_embed_seq_len: 4 }, { image: pictures[0], lastImage: pictures[1] }, [0, 1]],
  ] as const)("%s", async (name, more, images, read) => {
    const folder = pipeline(name, { transformer: { ...beside, ...more } }, encoder);
    await using vae = WanVae.load(join(folder, "vae"), { device: "cpu" });
    await using denoiser = load(folder, "transformer");
    using known = condition(vae, "lastImage" in images);
    using tokens = scope(() => {
      const each = read.map((i) =>
        brightness(tensor(picture(i).data).view([1, 50, 70, 3]).permute([0, 3, 1, 2]).contiguous()),
      );
      return cat(each, 0); // one after the other in the batch, as diffusers has them
    });
    using wanted = await sampled(folder, [1, 16, 3, 4, 6], (x, t, text) =>
      denoiser.module.forward({ latents: cat([x, known], 1), timestep: tensor([t]), text, image: tokens }),
    );
    using got = await generated(folder, images);
    expect(allClose(got, wanted, closely)).toBe(true);
    using other = await generated(folder, { ...images, image: pictures[1] });
    expect(allClose(got, other, closely)).toBe(false);
  });

  test("what is missing is said, with the knob", async () => {
    const folder = pipeline("incomplete", { transformer: beside }, {});
    expect(await failure(folder, { image: pictures[0] })).toMatchObject({
      code: "checkpoint_invalid",
      message: expect.stringMatching(/names no image_encoder/),
    });
    const whole = pipeline("complete", { transformer: beside }, encoder);
    expect(await failure(whole, {})).toMatchObject({
      code: "invalid_input",
      message: expect.stringMatching(/continues an image/),
      hint: "give image",
    });
    writeFileSync(join(scratch, "words.png"), "no image");
    expect((await failure(whole, { image: join(scratch, "words.png") })).message).toMatch(/words\.png is not an image/);
    expect((await failure(whole, { image: pictures[0], numFrames: 10 })).hint).toBe("use 9 or 13");
    const both = pipeline("both", { transformer: { ...beside, pos_embed_seq_len: 4 } }, encoder);
    expect(await failure(both, { image: pictures[0] })).toMatchObject({
      message: expect.stringMatching(/from a first to a last frame/),
      hint: "give lastImage as well",
    });
  });
});

test("a known first frame in place of its noise", async () => {
  const C = 6;
  const folder = pipeline("in place", { transformer: { in_channels: C, out_channels: C } }, { expand_timesteps: true });
  rmSync(join(folder, "vae"), { recursive: true });
  const config = VaeConfig.parse({
    ...{ base_dim: 4, z_dim: C, dim_mult: [1, 2, 2], num_res_blocks: 1, temperal_downsample: [true, true] },
    ...{ is_residual: true, patch_size: 2, in_channels: 12, out_channels: 12 },
    latents_mean: Array.from({ length: C }, (_, i) => i / 10),
    latents_std: Array.from({ length: C }, (_, i) => 1 + i / 10),
  });
  using generator = new Generator(7);
  await using vae = WanVae.init(config, generator, { device: "cpu" });
  await vae.save(join(folder, "vae"));
  await using denoiser = load(folder, "transformer");
  const shape = [1, C, 3, HEIGHT / 8, WIDTH / 8];
  using first = noGrad(() => scope(() => vae.encode(pixels(0))));
  using free = cat([zeros([1, 1, 1, 4, 6]), ones([1, 1, 2, 4, 6])], 2);
  const put = (x: Tensor): Tensor => free.neg().add(1).mul(first).add(free.mul(x));
  using end = await sampled(folder, shape, (x, t, text) =>
    denoiser.module.forward({
      latents: put(x),
      timestep: free.select(1, 0).slice(2, 0, 4, 2).slice(3, 0, 6, 2).flatten(1).mul(t),
      text,
    }),
  );
  using wanted = keep(scope(() => put(end)));
  using got = await generated(folder, { image: pictures[0] });
  expect(allClose(got, wanted, closely)).toBe(true);
  expect(await failure(folder, { image: pictures[0], lastImage: pictures[1] })).toMatchObject({
    message: expect.stringMatching(/a first frame and no last one/),
    hint: "leave lastImage out",
  });
  // without a picture it is text to video: one time for all
  using plain = await sampled(folder, shape, (x, t, text) =>
    denoiser.module.forward({ latents: x, timestep: tensor([t]), text }),
  );
  using words = await generated(folder, {});
  expect(allClose(words, plain, closely)).toBe(true);
});

describe("parts that are not the model's own", () => {
  test("are lone files under Wan's names in place of its own", async () => {
    await using denoiser = load(published, "transformer");
    const network = join(scratch, "alone/network.safetensors");
    mkdirSync(join(scratch, "alone"));
    // two heads of 20 cannot be told from a width of 40: a config.json beside the file says it
    writeFileSync(join(scratch, "alone/config.json"), JSON.stringify({ num_heads: 2, dim: 40, num_layers: 2 }));
    scope(() => {
      const weights = Array.from(denoiser.module.stateDict(), ([key, weight]): [string, Tensor] => [
        `model.diffusion_model.${originalName(key)}`,
        weight.detach(),
      ]);
      saveSafetensors(network, new Map(weights));
    });
    using own = await generated(published, {});
    using same = await generated(published, { component: [`transformer=${network}`] });
    expect(allClose(same, own, { atol: 0, rtol: 0 })).toBe(true);

    const empty = pipeline("without weights", {}, {});
    rmSync(join(empty, "transformer"), { recursive: true });
    await using ctx = await open();
    const { items } = (await runOperation(
      generate,
      { ...request, model: empty, component: [`transformer=${network}`] },
      ctx,
    )) as { items: { path: string; digest: never }[] };
    expect((await ctx.store.lineage(items[0]?.digest as never))?.inputs.map(({ role }) => role)).toEqual([
      "model",
      "component",
    ]);
    expect(await ctx.media.readMetadata(items[0]?.path as string)).toMatchObject({
      replaced: [{ name: "transformer" }],
    });
  });

  test("must be parts that it has, at paths that are there", async () => {
    expect(await failure(published, { component: ["unet=x.safetensors"] })).toMatchObject({
      code: "invalid_input",
      message: "component: the model has no unet",
      hint: expect.stringMatching(/transformer, vae|vae.*transformer|transformer.*vae/),
    });
    expect(await failure(published, { component: ["vae=/nowhere/x.safetensors"] })).toMatchObject({
      code: "checkpoint_missing",
    });
  });
});

describe("two denoisers", () => {
  const networks = { transformer: { ffn_dim: 44 }, transformer_2: { ffn_dim: 36 } };

  test("share the flow time at the boundary, each with its guide", async () => {
    const folder = pipeline("experts", networks, { boundary_ratio: 0.875 });
    await using high = load(folder, "transformer");
    await using low = load(folder, "transformer_2");
    const times: number[] = [];
    const run = (scale: (t: number) => number): Promise<Tensor> =>
      sampled(
        folder,
        [1, 16, 3, 4, 6],
        (x, t, text) => {
          times.push(t);
          return (t >= 875 ? high : low).module.forward({ latents: x, timestep: tensor([t]), text });
        },
        scale,
      );
    using wanted = await run((t) => (t >= 875 ? 5 : 3));
    expect([times.some((t) => t >= 875), times.some((t) => t < 875)]).toEqual([true, true]);
    using got = await generated(folder, { guide2: { id: "cfg", scale: 3 } });
    expect(allClose(got, wanted, closely)).toBe(true);
    using alike = await run(() => 5);
    using same = await generated(folder, {});
    expect(allClose(same, alike, closely)).toBe(true);
  });

  test("need a boundary, and one denoiser needs no second guide", async () => {
    const folder = pipeline("boundless", networks, {});
    expect(await failure(folder, {})).toMatchObject({
      code: "checkpoint_invalid",
      message: expect.stringMatching(/transformer and transformer_2/),
      hint: expect.stringMatching(/boundary_ratio/),
    });
    expect(await failure(published, { guide2: { id: "none" } })).toMatchObject({ hint: "leave guide2 out" });
  });
});
