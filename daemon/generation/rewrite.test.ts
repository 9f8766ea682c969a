import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, scope, setThreads } from "../../native/index.ts";
import { provide, z } from "../../plugins/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";

setThreads(1);
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const sizes = { model, width: 16, height: 16, numFrames: 5, fps: 8, numSteps: 1, keepLatents: true };

let calls: { text: string; seconds?: number | undefined }[] = [];
/** Writes a word behind the prompt, and one into what is not to be seen. */
const behind = provide("rewrite", {
  id: "behind",
  summary: "a word more",
  runs: "device",
  options: z.strictObject({ word: z.string(), negative: z.string().default(""), each: z.boolean().default(false) }),
  traits: {},
  run: async (prompt, { options }) => {
    calls.push({ text: prompt.text, seconds: prompt.seconds });
    const text = options.word === "" ? "" : `${prompt.text} ${options.word}`;
    return { ...prompt, text, negative: prompt.negative + options.negative + (options.each ? prompt.text : "") };
  },
});

const open = (home?: string): Promise<TestContext> =>
  testContext({
    plugins: ["t5", "wan", "wan-vae", "flow", "guide-cfg", "storage-local"],
    provide: [behind],
    ...(home === undefined ? {} : { home }),
  });
interface Output {
  readonly items: readonly {
    readonly prompt: string;
    readonly asked?: string;
    readonly latents: string;
    readonly path: string;
  }[];
}
const run = async (ctx: TestContext, input: Record<string, unknown>): Promise<Output> =>
  (await runOperation(generate, { ...sizes, ...input }, ctx)) as Output;
const latents = ({ items }: Output): number[][] =>
  items.map(({ latents }) => {
    using file = openSafetensors(latents);
    return scope(() => file.get("latents").toNumbers());
  });

test("every prompt is rewritten once, in order, and made as if it had been asked for so", async () => {
  calls = [];
  await using ctx = await open();
  const pick = [
    { id: "behind", word: "red", negative: "dull" },
    { id: "behind", word: "ball" },
  ];
  // The family has a negative prompt of its own, which rewriters would add to.
  const made = await run(ctx, { prompt: ["a", "the"], negativePrompt: "", numSamples: 2, rewrite: pick });
  expect(made.items.map(({ prompt, asked }) => [asked, prompt])).toEqual([
    ["a", "a red ball"],
    ["a", "a red ball"],
    ["the", "the red ball"],
    ["the", "the red ball"],
  ]);
  // 5 frames at 8 a second
  expect(calls).toEqual(["a", "a red", "the", "the red"].map((text) => ({ text, seconds: 5 / 8 })));
  const recipe = await ctx.media.readMetadata(made.items[0]?.path as string);
  expect(recipe).toMatchObject({
    prompt: "a red ball",
    asked: "a",
    negativePrompt: "dull",
    rewrite: pick.map((each) => ({ ...each })),
  });
  await using other = await open();
  const direct = await run(other, { prompt: ["a red ball", "the red ball"], numSamples: 2, negativePrompt: "dull" });
  expect(latents(made)).toEqual(latents(direct));
  expect(direct.items[0]?.asked).toBeUndefined();
});

test("a job that goes on finds its prompts rewritten", async () => {
  calls = [];
  await using ctx = await open();
  const first = await run(ctx, { prompt: "a", rewrite: [{ id: "behind", word: "ball" }] });
  const again = await run(ctx, { prompt: "a", rewrite: [{ id: "behind", word: "ball" }] });
  expect(calls).toHaveLength(1);
  expect(readFileSync(again.items[0]?.path as string)).toEqual(readFileSync(first.items[0]?.path as string));
});

test("nothing left of a prompt, and a negative prompt of its own for each, are said", async () => {
  await using ctx = await open();
  await expect(run(ctx, { prompt: "a", rewrite: [{ id: "behind", word: "" }] })).rejects.toMatchObject({
    code: "plugin_failed",
  });
  await expect(
    run(ctx, { prompt: ["a", "b"], rewrite: [{ id: "behind", word: "x", each: true }] }),
  ).rejects.toMatchObject({
    code: "invalid_input",
  });
});
