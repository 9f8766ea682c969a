import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, normal_, openSafetensors, scope, setThreads } from "../../native/index.ts";
import { type Guide, provide, type Task, WaverError, z } from "../../plugins/index.ts";
import { T5TextEncoder } from "../../plugins/t5/encoder.ts";
import { T5Config } from "../../plugins/t5/params.ts";
import { WanVae } from "../../plugins/wan-vae/codec.ts";
import { VaeConfig } from "../../plugins/wan-vae/params.ts";
import { fresh, save } from "../../plugins/waver/checkpoint.ts";
import { WaverParams } from "../../plugins/waver/params.ts";
import { compare } from "../../test/parity/compare.ts";
import { Golden } from "../../test/parity/golden.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { slowGuide } from "../../test/support/slow-guide.ts";
import { generate } from "../operations/generate.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "waver", "flow", "guide-cfg", "guide-apg", "storage-local"];
const golden = join(import.meta.dir, "../../test/golden");
const wan = join(golden, "pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "generate-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

interface Output {
  readonly items: readonly {
    readonly prompt: string;
    readonly seed: number;
    readonly task: Task;
    readonly path: string;
    readonly digest: string;
    readonly latents?: string;
    readonly frames?: string;
  }[];
}
const open = (more: Parameters<typeof testContext>[0] = {}): Promise<TestContext> => testContext({ plugins, ...more });
const run = async (ctx: TestContext, input: Record<string, unknown>): Promise<Output> =>
  (await runOperation(generate, input, ctx)) as Output;
const failure = async (
  input: Record<string, unknown>,
  more: Parameters<typeof testContext>[0] = {},
): Promise<WaverError> => {
  await using ctx = await open(more);
  const error: unknown = await run(ctx, input).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WaverError);
  return error as WaverError;
};
const numbers = (path: string, key: string): Float32Array => {
  using file = openSafetensors(path);
  return scope(() => file.get(key).toFloat32Array());
};
const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);

/** A model of the project's own kind at the smallest sizes, random weights. */
const nano = join(scratch, "nano");
beforeAll(async () => {
  using generator = new Generator(3);
  const vae = VaeConfig.parse({
    ...{
      base_dim: 4,
      z_dim: 4,
      dim_mult: [1, 2, 2],
      num_res_blocks: 1,
      temperal_downsample: [true, true],
      is_residual: true,
      patch_size: 2,
    },
    ...{ in_channels: 12, out_channels: 12, latents_mean: [0, 0, 0, 0], latents_std: [1, 1, 1, 1] },
  });
  await using codec = WanVae.init(vae, generator, { device: "cpu" });
  await codec.save(join(nano, "vae"));
  const t5 = T5Config.parse({
    vocab_size: 700,
    d_model: 12,
    d_kv: 4,
    d_ff: 16,
    num_layers: 1,
    num_heads: 2,
    feed_forward_proj: "gated-gelu",
  });
  const tokenizer = join(golden, "tokenizer_t5_unigram/tokenizer");
  await using encoder = T5TextEncoder.fresh(t5, 4, { device: "cpu", maxTokens: 32, tokenizer, clean: true });
  await encoder.save(join(nano, "text_encoder"));
  cpSync(tokenizer, join(nano, "tokenizer"), { recursive: true });
  const params = WaverParams.parse({
    num_dual: 1,
    num_single: 1,
    num_heads: 2,
    head_dim: 12,
    in_channels: 12,
    out_channels: 4,
    patch_size: [1, 1, 1],
    t5_dim: 12,
    qwen_dim: null,
    pos_sizes: [8, 8, 8],
  });
  using network = fresh(params, 1);
  for (const weight of network.parameters()) normal_(weight, 0, 0.2, generator); // fresh gates are zero: nothing would matter
  await save(network, join(nano, "transformer"));
  mkdirSync(join(nano, "scheduler"));
  writeFileSync(
    join(nano, "scheduler/scheduler_config.json"),
    JSON.stringify({ _class_name: "WaverFlowScheduler", shift: 2 }),
  );
  writeFileSync(
    join(nano, "model_index.json"),
    JSON.stringify({
      _class_name: "WaverPipeline",
      _waver: { defaults: { width: 32, height: 32, numFrames: 5, fps: 8, numSteps: 3 } },
      transformer: ["waver", "WaverTransformer3DModel"],
      vae: ["diffusers", "AutoencoderKLWan"],
      text_encoder: ["transformers", "T5EncoderModel"],
      text_encoder_2: [null, null],
      tokenizer: ["transformers", "T5TokenizerFast"],
      scheduler: ["waver", "WaverFlowScheduler"],
    }),
  );
});

describe("a published pipeline", () => {
  test("gives the frames of the reference", async () => {
    const reference = new Golden(join(golden, "pipeline_wan_t2v"));
    const { prompt, negative_prompt } = reference.params as Record<string, string>;
    await using ctx = await open();
    const { items } = await run(ctx, {
      model: wan,
      prompt,
      negativePrompt: negative_prompt,
      width: 48,
      height: 32,
      numFrames: 9,
      numSteps: 4,
      maxTokens: 64,
      latents: `${join(golden, "pipeline_wan_t2v/io.safetensors")}#in.latents`,
      keepFrames: true,
      guide: { id: "cfg", scale: 5 },
    });
    using file = openSafetensors(items[0]?.frames as string);
    const [video, shape] = scope(() => [file.get("video").toFloat32Array(), file.get("video").shape] as const);
    const verdict = compare(
      "video",
      { shape, data: video },
      reference.reference("video"),
      reference.tolerance.get("video") ?? {},
    );
    expect(verdict.ratio).toBeLessThanOrEqual(1);
    // the file decodes to these frames at over 40 dB, random colours as they are
    const view = { width: 48, height: 32, fit: "stretch", rate: "native", format: "rgb24", batch: 9 } as const;
    let [squares, at] = [0, 0];
    const size = 48 * 32;
    for await (const { data } of ctx.media.frames(items[0]?.path as string, view))
      for (const value of data) {
        const [frame, pixel, channel] = [Math.floor(at / 3 / size), Math.floor(at / 3) % size, at % 3];
        squares += (value - 255 * (video[(frame * 3 + channel) * size + pixel] as number)) ** 2;
        at++;
      }
    expect(at).toBe(video.length);
    expect(10 * Math.log10(255 ** 2 / (squares / at))).toBeGreaterThan(40);
    expect(await ctx.media.probe(items[0]?.path as string)).toMatchObject({
      width: 48,
      height: 32,
      numFrames: 9,
      codec: "h264",
    });
    // the recipe travels with the file, and the artefact knows its model
    expect(await ctx.media.readMetadata(items[0]?.path as string)).toMatchObject({
      prompt,
      seed: 0,
      numSteps: 4,
      sampler: { id: "unipc" },
      guide: { id: "cfg", scale: 5 },
    });
    expect((await ctx.store.lineage(items[0]?.digest as never))?.inputs).toEqual([
      { role: "model", digest: expect.stringMatching(/^sha256:/) },
    ]);
  });

  test("an artefact of the same content has the same digest in the lineage", async () => {
    await using ctx = await open();
    const digest = await ctx.store.publish(wan, {
      kind: "checkpoint",
      inputs: [],
      by: { operation: "test", version: "0" },
      options: {},
    });
    const { items } = await run(ctx, {
      model: wan,
      prompt: "x",
      width: 16,
      height: 16,
      numFrames: 1,
      numSteps: 1,
      maxTokens: 8,
      guide: { id: "none" },
    });
    expect(await ctx.store.children(digest)).toEqual([items[0]?.digest as never]);
  });
});

describe("a model of our own", () => {
  test("makes images, videos and videos from a first and a last frame", async () => {
    await using ctx = await open();
    const output = join(scratch, "out");
    const [still] = (await run(ctx, { model: nano, prompt: "a red ball", numFrames: 1, output })).items;
    expect(still).toMatchObject({ task: "t2i", path: join(output, "000-a-red-ball-0.png") });
    const first = await ctx.media.image(still?.path as string);
    expect([first.width, first.height]).toEqual([32, 32]);
    expect(readFileSync(still?.path as string).includes("a red ball")).toBe(true);

    await using next = await open();
    const [moved] = (
      await run(next, { model: nano, prompt: "a red ball", image: still?.path, output: join(scratch, "moved.mp4") })
    ).items;
    expect(moved).toMatchObject({ task: "i2v", path: join(scratch, "moved.mp4") });
    expect(await next.media.probe(moved?.path as string)).toMatchObject({
      width: 32,
      height: 32,
      numFrames: 5,
      fps: 8,
    });

    await using last = await open();
    const between = await run(last, {
      model: nano,
      prompt: "a red ball",
      image: still?.path,
      lastImage: still?.path,
      keepLatents: true,
    });
    expect(between.items[0]?.task).toBe("interpolate");
    await using plain = await open();
    const free = await run(plain, { model: nano, prompt: "a red ball", keepLatents: true });
    expect(
      distance(
        numbers(between.items[0]?.latents as string, "latents"),
        numbers(free.items[0]?.latents as string, "latents"),
      ),
    ).toBeGreaterThan(1e-3);
  });

  test("a sample depends on its own seed and prompt, not on its neighbours", async () => {
    const prompts = ["a red ball", "two blue squares on a long grey road"];
    await using ctx = await open();
    const { items } = await run(ctx, {
      model: nano,
      prompt: prompts,
      seed: 5,
      numSamples: 2,
      batchSize: 4,
      keepLatents: true,
      guide: { id: "video-apg" },
    });
    expect(items.map(({ prompt, seed }) => [prompt, seed])).toEqual(
      prompts.flatMap((prompt) => [5, 6].map((seed) => [prompt, seed])),
    );
    for (const { prompt, seed, latents } of [items[1], items[2]] as (typeof items)[number][]) {
      await using alone = await open();
      const [single] = (await run(alone, { model: nano, prompt, seed, keepLatents: true, guide: { id: "video-apg" } }))
        .items;
      // one batch or another: the products sum in another order, nothing more
      expect(
        distance(numbers(latents as string, "latents"), numbers(single?.latents as string, "latents")),
      ).toBeLessThan(1e-4);
    }
    expect(
      distance(numbers(items[0]?.latents as string, "latents"), numbers(items[1]?.latents as string, "latents")),
    ).toBeGreaterThan(0.1);
  });

  test("a killed job goes on at the step where it was", async () => {
    const request = {
      model: wan,
      prompt: "a ball",
      width: 16,
      height: 16,
      numFrames: 5,
      numSteps: 24,
      maxTokens: 8,
      keepLatents: true,
      guide: { id: "slow" },
    };
    const home = join(scratch, "killed");
    const steps: number[] = [];
    {
      await using ctx = await open({
        home,
        provide: [
          slowGuide((step) => {
            steps.push(step);
            if (step === 18) ctx.cancel();
          }),
        ],
      });
      expect(await run(ctx, request).catch((error: WaverError) => error.code)).toBe("cancelled");
      // the step that it came in is the last
      expect(steps.at(-1)).toBe(18);
      steps.length = 0;
    }
    await using again = await open({ home, provide: [slowGuide((step) => void steps.push(step))] });
    const resumed = await run(again, request);
    expect(steps[0]).toBeGreaterThan(0);
    expect(steps.at(-1)).toBe(23);
    await using whole = await open({ provide: [slowGuide(() => undefined)] });
    const uninterrupted = await run(whole, request);
    expect(
      distance(
        numbers(resumed.items[0]?.latents as string, "latents"),
        numbers(uninterrupted.items[0]?.latents as string, "latents"),
      ),
    ).toBe(0);
    // what was finished is not done again
    steps.length = 0;
    expect(await run(again, request)).toEqual(resumed);
    expect(steps).toEqual([]);
  }, 60_000);
});

describe("bad input", () => {
  const small = { model: wan, prompt: "x", width: 16, height: 16, numFrames: 5, numSteps: 1, maxTokens: 8 };
  const cases: [string, Record<string, unknown>, { code: string; message: RegExp; hint?: RegExp }][] = [
    ["no model", { ...small, model: "/nonexistent/model" }, { code: "checkpoint_missing", message: /no model at/ }],
    [
      "a part in place of a pipeline",
      { ...small, model: join(wan, "vae") },
      { code: "checkpoint_missing", message: /model_index/ },
    ],
    [
      "frames that are not 4n + 1",
      { ...small, numFrames: 8 },
      { code: "invalid_input", message: /numFrames 8/, hint: /5 or 9/ },
    ],
    [
      "a width that does not divide",
      { ...small, width: 40 },
      { code: "invalid_input", message: /width 40/, hint: /32 or 48/ },
    ],
    [
      "an image for a model without room for it",
      { ...small, image: join(import.meta.dir, "x.png") },
      { code: "invalid_input", message: /text only/ },
    ],
    [
      "a task that does not fit",
      { ...small, task: "i2v" },
      { code: "invalid_input", message: /task i2v needs an image/ },
    ],
    [
      "latents of another shape",
      { ...small, latents: `${join(golden, "pipeline_wan_t2v/io.safetensors")}#in.latents` },
      { code: "shape_mismatch", message: /latents/ },
    ],
    [
      "latents without a name",
      { ...small, latents: join(golden, "pipeline_wan_t2v/io.safetensors") },
      { code: "invalid_input", message: /holds 12 tensors/ },
    ],
  ];
  test.each(cases)("%s", async (_name, input, wanted) => {
    const error = await failure(input);
    expect(error.message).toMatch(wanted.message);
    expect(error.code).toBe(wanted.code as never);
    if (wanted.hint !== undefined) expect(error.hint).toMatch(wanted.hint);
  });

  /** A copy of the pipeline with one thing broken. */
  const broken = (name: string, breakIt: (folder: string) => void): string => {
    const folder = join(scratch, name);
    cpSync(wan, folder, { recursive: true });
    breakIt(folder);
    return folder;
  };
  const rewrite = (path: string, change: (json: Record<string, unknown>) => object): void => {
    const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    rmSync(path);
    writeFileSync(path, JSON.stringify(change(json)));
  };

  test("an unknown scheduler names those that are known", async () => {
    const model = broken("scheduler-unknown", (folder) =>
      rewrite(join(folder, "model_index.json"), (json) => ({
        ...json,
        scheduler: ["diffusers", "FooScheduler"],
      })),
    );
    const error = await failure({ ...small, model });
    expect([error.code, error.message]).toEqual(["no_provider", expect.stringMatching(/FooScheduler, the scheduler/)]);
    expect(error.hint).toContain("UniPCMultistepScheduler (unipc)");
  });

  test("a truncated checkpoint and a missing one say so", async () => {
    const file = "transformer/diffusion_pytorch_model.safetensors";
    const cut = broken("cut", (folder) => {
      const whole = readFileSync(join(folder, file));
      rmSync(join(folder, file));
      writeFileSync(join(folder, file), whole.subarray(0, whole.length / 2));
    });
    expect((await failure({ ...small, model: cut })).code).toBe("checkpoint_truncated");
    const gone = broken("gone", (folder) => rmSync(join(folder, file)));
    expect((await failure({ ...small, model: gone })).code).toBe("checkpoint_missing");
    const other = broken("other", (folder) =>
      rewrite(join(folder, "transformer/config.json"), (json) => ({ ...json, num_layers: 3 })),
    );
    expect((await failure({ ...small, model: other })).message).toMatch(/missing .*blocks\.2/);
  });

  test("numbers that are none end the job and name the stage; nothing is left behind", async () => {
    const poisoned = provide("guide", {
      id: "poisoned",
      summary: "divides by zero",
      runs: "device",
      options: z.strictObject({}),
      traits: {},
      run:
        async (): Promise<Guide> =>
        ({ predict }) =>
          predict("positive").mul(Number.NaN),
    });
    const output = join(scratch, "poisoned");
    const error = await failure({ ...small, output, guide: { id: "poisoned" } }, { provide: [poisoned] });
    expect([error.code, error.message]).toEqual([
      "numeric_invalid",
      expect.stringMatching(/denoising gave values that are no numbers at step 1 of 1/),
    ]);
    expect(() => readdirSync(output)).toThrow();
  });
});
