import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  Generator,
  noGrad,
  type PatchGrid,
  patchify,
  randint,
  randn,
  Scope,
  saveSafetensors,
  scope,
  setThreads,
  smartResize,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import { samplesOf } from "../samples.ts";
import { checkProvider, failures } from "../testing.ts";
import { loadModel, weightBytes } from "./checkpoint.ts";
import plugin from "./index.ts";
import { Qwen25VL, type Visual, type VisualPrompt, visualPositions } from "./model.ts";
import { ProcessorConfig, readConfig, VLConfig } from "./params.ts";
import { planWindows } from "./vision.ts";

setThreads(1);
const tokenizer = join(import.meta.dir, "../../test/golden/tokenizer_qwen2_bpe/tokenizer");
const root = mkdtempSync(join(tmpdir(), "qwen2-vl-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const TEXT = {
  vocab_size: 714,
  hidden_size: 32,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 1,
  max_position_embeddings: 8192,
};
const VISION = {
  depth: 3,
  hidden_size: 24,
  intermediate_size: 20,
  num_heads: 3,
  out_hidden_size: 32,
  patch_size: 4,
  window_size: 16,
  fullatt_block_indexes: [1],
};
const [IMAGE, VIDEO] = [712, 713];
const TOP = { model_type: "qwen2_5_vl", image_token_id: IMAGE, video_token_id: VIDEO, tie_word_embeddings: true };
const sections = [1, 1, 2];
/** As published, and as transformers 5 writes it. */
const FLAT = {
  ...TOP,
  ...TEXT,
  rope_theta: 1e5,
  rope_scaling: { type: "mrope", mrope_section: sections },
  vision_config: { ...VISION, in_chans: 3 },
};
const NESTED = {
  ...TOP,
  text_config: {
    ...TEXT,
    model_type: "qwen2_5_vl_text",
    rope_parameters: { rope_theta: 1e5, rope_type: "default", mrope_section: sections },
  },
  vision_config: { ...VISION, in_channels: 3 },
};
const config = VLConfig.parse(FLAT);

function fresh(): Qwen25VL {
  using generator = new Generator(5);
  const model = new Qwen25VL(config).init(generator);
  noGrad(() => {
    for (const weight of model.decoder.parameters()) if (weight.ndim === 2) weight.mul_(15);
  });
  return model;
}

function visual(kind: Visual["kind"], grid: PatchGrid, seed: number): Visual {
  using generator = new Generator(seed);
  return { kind, grid, patches: randn([grid[0] * grid[1] * grid[2], 3 * 2 * 4 * 4], { generator }) };
}

/** A prompt with these in its middle. */
function promptOf(visuals: readonly Visual[], seed = 1): VisualPrompt {
  const marks = visuals.flatMap(({ kind, grid }) => [
    709,
    ...new Array<number>((grid[0] * grid[1] * grid[2]) / 4).fill(kind === "image" ? IMAGE : VIDEO),
    710,
  ]);
  return { ids: [seed, 7 * seed, ...marks, 3 * seed, 11], visuals };
}

function say(model: Qwen25VL, prompts: readonly VisualPrompt[], maxTokens = 6): number[][] {
  const rows: number[][] = prompts.map(() => []);
  for (const tokens of model.generate(prompts, { maxTokens }))
    tokens.forEach((token, i) => void rows[i]?.push(token as number));
  return rows;
}

describe("windows", () => {
  test.each([[[1, 6, 10]], [[3, 4, 6]], [[2, 2, 2]], [[1, 16, 8]], [[2, 14, 18]]] as [PatchGrid][])(
    "of %j hold every unit once, and only near ones",
    (grid) => {
      const { order, windows, frames, rows, columns } = planWindows(grid, 2, 4);
      const units = (grid[0] * grid[1] * grid[2]) / 4;
      expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: units }, (_, i) => i));
      expect(windows.reduce((a, b) => a + b, 0)).toBe(units * 4);
      expect(frames).toEqual(new Array(grid[0]).fill(grid[1] * grid[2]));
      let at = 0;
      for (const length of windows) {
        for (const places of [rows, columns]) {
          const here = places.slice(at, at + length).map((place) => Math.floor(place / 8)); // 4 units of 2 patches
          expect(new Set(here).size).toBe(1);
        }
        at += length;
      }
    },
  );

  test("a window block sees its window alone, a full one its frame alone", () => {
    using model = fresh();
    scope(() => {
      const grid: PatchGrid = [2, 8, 12]; // windows of 2 x 2 units: 2 x 3 a frame
      const { patches } = visual("video", grid, 3);
      const seen = (unit: number): Float32Array[] => {
        const found: Float32Array[] = [];
        const part = patches.clone();
        part.narrow(0, unit * 4, 4).add_(1);
        model.visual.forward(part, grid, (name, value) => {
          if (name.startsWith("block")) found.push(value.toFloat32Array());
        });
        return found;
      };
      /** Patches of 24 features that differ. */
      const changed = (a: Float32Array, b: Float32Array): number =>
        new Set(
          Array.from(a.keys())
            .filter((i) => a[i] !== b[i])
            .map((i) => Math.floor(i / 24)),
        ).size;
      const [before, after] = noGrad(() => [seen(0), seen(1)]) as [Float32Array[], Float32Array[]]; // units of one window
      expect([0, 1].map((i) => changed(before[i] as Float32Array, after[i] as Float32Array))).toEqual([16, 96]);
    });
  });
});

describe("positions", () => {
  test("text counts on, frames spread in time, rows and columns from where the frame stands", () => {
    const video = { ...visual("video", [3, 4, 4], 1), seconds: 1.25 };
    const prompt: VisualPrompt = { ids: [5, 6, ...new Array<number>(12).fill(VIDEO), 7], visuals: [video] };
    const axes = visualPositions(prompt, config);
    video.patches.dispose();
    expect(axes).toEqual([
      [0, 1, 2, 2, 2, 2, 4, 4, 4, 4, 7, 7, 7, 7, 4],
      [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 2, 2, 3, 3, 4],
      [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 4],
    ]);
    expect(() => visualPositions({ ids: [IMAGE], visuals: [video] }, config)).toThrow(
      "a mark for an image that was not given",
    );
    expect(() => visualPositions({ ids: [1], visuals: [video] }, config)).toThrow("no mark for 1");
  });
});

describe("the model", () => {
  test("a prompt is continued in a padded batch as it is alone, and as without a cache", () => {
    using model = fresh();
    using held = new Scope();
    const prompts = held.run(() => [
      promptOf([visual("image", [1, 6, 10], 1), visual("video", [2, 4, 6], 2)]),
      promptOf([visual("video", [6, 2, 4], 3)], 4),
      promptOf([], 9),
    ]);
    const together = say(model, prompts);
    for (const [i, prompt] of prompts.entries()) {
      expect(say(model, [prompt])[0]).toEqual(together[i] as number[]);
      const ids = [...prompt.ids];
      for (let n = 0; n < 6; n++)
        ids.push(
          scope(() =>
            noGrad(() => model.forward([{ ...prompt, ids }]))
              .select(0, 0)
              .select(0, -1)
              .argmax()
              .item(),
          ),
        );
      expect(ids.slice(prompt.ids.length)).toEqual(together[i] as number[]);
    }
    scope(() => {
      const [a, b] = [prompts, [prompts[1] as VisualPrompt]].map((each) => noGrad(() => model.forward(each))) as [
        Tensor,
        Tensor,
      ];
      const length = b.size(1);
      expect(allClose(a.select(0, 1).narrow(0, a.size(1) - length, length), b.select(0, 0), { atol: 2e-4 })).toBe(true);
    });
  });

  test("flat and nested configurations, and all forms of keys, are one model", () => {
    const folders = (["flat", "nested", "wrapped"] as const).map((form) => {
      const folder = join(root, form);
      mkdirSync(folder);
      writeFileSync(join(folder, "config.json"), JSON.stringify(form === "flat" ? FLAT : NESTED));
      using model = fresh();
      const key = (name: string): string =>
        form === "wrapped"
          ? name.replace(/^model\./, "model.language_model.").replace(/^visual\./, "model.visual.")
          : name;
      const weights = [...model.stateDict()].map(([name, value]): [string, Tensor] => [key(name), value]);
      if (form === "flat") weights.push(["lm_head.weight", model.decoder.embed_tokens.weight]);
      saveSafetensors(join(folder, "model.safetensors"), new Map(weights));
      return folder;
    });
    using held = new Scope();
    const prompt = held.run(() => promptOf([visual("image", [1, 4, 4], 1)]));
    const answers = folders.map((folder) => {
      expect(readConfig(folder)).toMatchObject({ text: config.text, vision: { in_channels: 3 } });
      using model = loadModel(folder, { device: "cpu" });
      return say(model, [prompt]);
    });
    expect(answers[1]).toEqual(answers[0] as number[][]);
    expect(answers[2]).toEqual(answers[0] as number[][]);
    using model = new Qwen25VL(config);
    expect(weightBytes(folders[1] as string, "bfloat16")).toBe(model.bytes("bfloat16"));
  });

  test("says what does not fit", () => {
    using model = fresh();
    scope(() => {
      const image = visual("image", [1, 4, 4], 1);
      expect(() => model.forward([{ ids: [1, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE], visuals: [image] }])).toThrow();
      expect(() => model.visual.forward(image.patches, [1, 4, 6])).toThrow("patches [16,96] for a grid of 1 x 4 x 6");
      expect(() => model.visual.forward(image.patches, [1, 1, 16])).toThrow("in units of 2 x 2");
    });
    const broken = VLConfig.safeParse({ ...FLAT, rope_scaling: null });
    expect(broken.error?.issues[0]?.message).toContain("mrope_section is missing");
  });
});

describe("pixels", () => {
  const settings = ProcessorConfig.parse({});
  test.each([
    [
      [1080, 1920],
      [728, 1316],
    ], // shrunk
    [
      [20, 30],
      [56, 84],
    ], // grown
    [
      [336, 448],
      [336, 448],
    ],
    [
      [70, 98],
      [56, 112],
    ], // halves go to the even neighbour
    [
      [30, 4000],
      [28, 4004],
    ],
  ] as [[number, number], [number, number]][])("%j becomes %j", ([height, width], size) => {
    expect(smartResize(height, width, settings)).toEqual(size);
  });

  test("patches are blocks of neighbours, a lone frame is doubled, the last one repeated", () => {
    using generator = new Generator(1);
    scope(() => {
      const small = { ...settings, patch_size: 2, min_pixels: 1, image_mean: [0, 0, 0], image_std: [1, 1, 1] };
      const frames = randint(0, 256, [3, 3, 4, 8], { generator, dtype: "uint8" });
      const { patches, grid } = patchify(frames, small);
      expect(grid).toEqual([2, 2, 4]);
      expect(patches.shape).toEqual([16, 24]);
      const pixel = (f: number, c: number, y: number, x: number): number =>
        frames.select(0, f).select(0, c).select(0, y).select(0, x).item() / 255;
      // patch 6 is the third of the second block: row 1, column 2; its second frame, third channel, row 1, column 0
      const at = (n: number, c: number, f: number, y: number, x: number): number =>
        patches.select(0, n).toNumbers()[((c * 2 + f) * 2 + y) * 2 + x] as number;
      expect(at(6, 2, 1, 1, 0)).toBeCloseTo(pixel(1, 2, 3, 4), 6);
      expect(at(8 + 6, 2, 1, 1, 0)).toBeCloseTo(pixel(2, 2, 3, 4), 6);
      expect(() => patchify(tensor(new Uint8Array(3 * 2 * 402)).view([1, 3, 2, 402]), small)).toThrow(
        "an image of 402 x 2 is too long",
      );
    });
  });
});

describe("the captioner", () => {
  const provider = plugin.provides[0]?.provider as never;
  const folder = join(root, "captioner");
  const chat =
    "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<|vision_start|><|{{ p.type }}_pad|><|vision_end|>{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}";

  test("keeps the promise of its hook on every kind of clip, and stops when cancelled", async () => {
    mkdirSync(folder);
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...FLAT, eos_token_id: 700 }));
    writeFileSync(
      join(folder, "preprocessor_config.json"),
      JSON.stringify({ patch_size: 4, max_pixels: 1024, min_pixels: 64 }),
    );
    writeFileSync(join(folder, "chat_template.json"), JSON.stringify({ chat_template: chat }));
    copyFileSync(join(tokenizer, "tokenizer.json"), join(folder, "tokenizer.json"));
    {
      using model = fresh();
      saveSafetensors(join(folder, "model.safetensors"), model.stateDict());
    }
    await using ctx = await testContext({ plugins: ["qwen2.5-vl"] });
    const open = (signal: AbortSignal) => ({ ...ctx, signal, breathe: async () => signal.throwIfAborted() });
    const options = { path: folder, maxTokens: 4, maxFrames: 5 };
    const inputs = samplesOf("caption", provider) as never;
    expect(failures(await checkProvider("caption", provider, { options, ctx: open, inputs }))).toEqual([]);
    const clip = (): never => (inputs as (() => never)[])[2]?.() as never;
    const caption = await ctx.use("caption", "qwen2.5-vl", options);
    const first = await caption(clip());
    expect(first?.by).toBe("captioner");
    expect(await caption(clip())).toEqual(first);
    const still = await ctx.use("caption", "qwen2.5-vl", { ...options, maxFrames: 1 });
    expect((await still(clip()))?.text).not.toBe(first?.text);
    const long = await ctx.use("caption", "qwen2.5-vl", { ...options, maxTokens: 9000 });
    await expect(long(clip())).rejects.toMatchObject({ code: "too_large" });
    await expect(ctx.use("caption", "qwen2.5-vl", {})).rejects.toMatchObject({ code: "needs_unmet" });
  });
});
