import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  Generator,
  noGrad,
  type PatchGrid,
  randint,
  randn,
  Scope,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  zeros,
} from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import { samplesOf } from "../samples.ts";
import { checkProvider, failures } from "../testing.ts";
import { loadModel, weightBytes } from "./checkpoint.ts";
import plugin from "./index.ts";
import { VideoLlama3, type Visual, type VisualPrompt } from "./model.ts";
import { VideoLlama3Config, VideoProcessorConfig } from "./params.ts";
import { markedFrames, prepareVideo } from "./video.ts";

setThreads(1);
const tokenizer = join(import.meta.dir, "../../test/golden/tokenizer_qwen2_bpe/tokenizer");
const root = mkdtempSync(join(tmpdir(), "videollama3-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const [IMAGE, VIDEO] = [712, 713];
const JSON_CONFIG = {
  model_type: "video_llama_3",
  image_token_id: IMAGE,
  video_token_id: VIDEO,
  eos_token_id: 700,
  vision_config: {
    hidden_size: 24,
    intermediate_size: 20,
    num_hidden_layers: 2,
    num_attention_heads: 3,
    patch_size: 4,
  },
  text_config: {
    model_type: "qwen2",
    vocab_size: 714,
    hidden_size: 32,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 4096,
    rope_theta: 1e5,
    tie_word_embeddings: true,
  },
};
const config = VideoLlama3Config.parse(JSON_CONFIG);

function fresh(): VideoLlama3 {
  using generator = new Generator(5);
  const model = new VideoLlama3(config).init(generator);
  noGrad(() => {
    for (const weight of model.decoder.parameters()) if (weight.ndim === 2) weight.mul_(15);
  });
  return model;
}

function visual(kind: Visual["kind"], grid: PatchGrid, merge: number, kept?: readonly boolean[]): Visual {
  using generator = new Generator(grid[1]);
  const patches = randn([grid[0] * grid[1] * grid[2], 3 * 4 * 4], { generator });
  return { kind, grid, merge, patches, ...(kept === undefined ? {} : { kept }) };
}

const tokensOf = ({ grid, merge, kept }: Visual): number =>
  kept?.filter(Boolean).length ?? (grid[0] * grid[1] * grid[2]) / merge ** 2;

function promptOf(visuals: readonly Visual[], seed = 1): VisualPrompt {
  const marks = visuals.flatMap((each) =>
    new Array<number>(tokensOf(each)).fill(each.kind === "image" ? IMAGE : VIDEO),
  );
  return { ids: [seed, 7 * seed, ...marks, 3 * seed, 11], visuals };
}

describe("the model", () => {
  test("a prompt is continued in a padded batch as it is alone, and as without a cache", () => {
    using model = fresh();
    using held = new Scope();
    const kept = [true, false, true, true, false, true, true, false, true, true, true, false];
    const prompts = held.run(() => [
      promptOf([visual("image", [1, 5, 3], 1), visual("video", [2, 4, 6], 2, kept)]),
      promptOf([visual("video", [3, 2, 4], 2)], 4),
      promptOf([], 9),
    ]);
    const say = (each: readonly VisualPrompt[]): number[][] => {
      const rows: number[][] = each.map(() => []);
      for (const tokens of model.generate(each, { maxTokens: 6 }))
        for (const [i, token] of tokens.entries()) rows[i]?.push(token as number);
      return rows;
    };
    const together = say(prompts);
    for (const [i, prompt] of prompts.entries()) {
      expect(say([prompt])[0]).toEqual(together[i] as number[]);
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
  });

  test("frames do not see each other; a merge of 2 is the mean of four patches, one of 1 leaves them", () => {
    using model = fresh();
    scope(() => {
      const tower = model.model.vision_model;
      const { patches } = visual("video", [2, 4, 6], 2);
      const both = noGrad(() => tower.forward(patches, [2, 4, 6], 2));
      const second = noGrad(() => tower.forward(patches.narrow(0, 24, 24), [1, 4, 6], 2));
      expect(allClose(both.narrow(0, 6, 6), second, { atol: 1e-5 })).toBe(true);
      // a 2 x 2 image is one block: its order is the same for both
      const block = patches.narrow(0, 0, 4);
      const [one, four] = noGrad(() => [tower.forward(block, [1, 2, 2], 2), tower.forward(block, [1, 2, 2], 1)]) as [
        Tensor,
        Tensor,
      ];
      expect(allClose(one, four.mean(0, true), { atol: 1e-5 })).toBe(true);
      expect(() => tower.forward(patches, [2, 4, 5], 2)).toThrow("patches [48,48] for a grid of 2 x 4 x 5");
    });
  });

  test("comes back from disk; the first release's layout is refused by name", () => {
    const folder = join(root, "saved");
    mkdirSync(folder);
    writeFileSync(join(folder, "config.json"), JSON.stringify(JSON_CONFIG));
    using model = fresh();
    saveSafetensors(join(folder, "model.safetensors"), model.stateDict());
    using again = loadModel(folder, { device: "cpu" });
    scope(() => {
      const prompt = promptOf([visual("image", [1, 2, 2], 1)]);
      const [a, b] = [model, again].map((each) => noGrad(() => each.forward([prompt]))) as [Tensor, Tensor];
      expect(allClose(a, b, { rtol: 0, atol: 0 })).toBe(true);
    });
    expect(weightBytes(folder)).toBe(model.bytes("float32"));
    const first = VideoLlama3Config.safeParse({ ...JSON_CONFIG, model_type: "videollama3_qwen2" });
    expect(first.error?.issues[0]?.message).toContain("not that of the first release");
  });
});

describe("a video", () => {
  const settings = VideoProcessorConfig.parse({ patch_size: 4, min_pixels: 64 });

  test("keeps the tokens whose pixels change, and one of every frame", () => {
    using generator = new Generator(2);
    scope(() => {
      const frames = randint(0, 256, [1, 3, 16, 24], { generator, dtype: "uint8" }).repeat([4, 1, 1, 1]).contiguous();
      // frame 1: the block at row 1, column 2; frame 2 the same again; frame 3 all
      const block = (frame: number): Tensor => frames.select(0, frame).narrow(1, 8, 8).narrow(2, 16, 8);
      block(1).copy_(zeros([3, 8, 8]));
      block(2).copy_(zeros([3, 8, 8]));
      frames.select(0, 3).fill_(7);
      const { grid, kept, patches } = prepareVideo(frames, settings);
      expect(grid).toEqual([4, 4, 6]);
      expect(patches.shape).toEqual([96, 48]);
      const say = (frame: number): string =>
        kept
          .slice(frame * 6, frame * 6 + 6)
          .map((each) => (each ? "x" : "."))
          .join("");
      expect([0, 1, 2, 3].map(say)).toEqual(["xxxxxx", ".....x", "x.....", "xxxxxx"]);
      expect(prepareVideo(frames, { ...settings, use_token_compression: false }).kept.every(Boolean)).toBe(true);
      expect(markedFrames("#", [0, 0.5, 1, 1.5], kept)).toBe(
        "Time 0.0s:######,Time 0.5s:#,Time 1.0s:#,Time 1.5s:######",
      );
    });
  });

  test("shares one limit of pixels between its frames", () => {
    scope(() => {
      const frames = zeros([4, 3, 32, 48], { dtype: "uint8" });
      expect(prepareVideo(frames, { ...settings, max_pixels: 4 * 32 * 48 }).grid).toEqual([4, 8, 12]);
      expect(prepareVideo(frames, { ...settings, max_pixels: 32 * 48 }).grid).toEqual([4, 4, 6]);
    });
  });
});

test("the captioner keeps the promise of its hook on every kind of clip, and stops when cancelled", async () => {
  const folder = join(root, "captioner");
  mkdirSync(folder);
  const chat =
    "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<|{{ p.type }}_pad|>{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}";
  writeFileSync(join(folder, "config.json"), JSON.stringify(JSON_CONFIG));
  writeFileSync(
    join(folder, "video_preprocessor_config.json"),
    JSON.stringify({ patch_size: 4, max_pixels: 4096, min_pixels: 64 }),
  );
  writeFileSync(join(folder, "chat_template.jinja"), chat);
  copyFileSync(join(tokenizer, "tokenizer.json"), join(folder, "tokenizer.json"));
  {
    using model = fresh();
    saveSafetensors(join(folder, "model.safetensors"), model.stateDict());
  }
  const provider = plugin.provides[0]?.provider as never;
  await using ctx = await testContext({ plugins: ["videollama3"] });
  const open = (signal: AbortSignal) => ({ ...ctx, signal, breathe: async () => signal.throwIfAborted() });
  const options = { path: folder, maxTokens: 4, maxFrames: 4 };
  const inputs = samplesOf("caption", provider) as never;
  expect(failures(await checkProvider("caption", provider, { options, ctx: open, inputs }))).toEqual([]);
  const clip = (): never => (inputs as (() => never)[])[2]?.() as never;
  const caption = await ctx.use("caption", "videollama3", options);
  const first = await caption(clip());
  expect(first?.by).toBe("captioner");
  expect(await caption(clip())).toEqual(first);
  await expect(ctx.use("caption", "videollama3", {})).rejects.toMatchObject({ code: "needs_unmet" });
});
