/** Prompts put through the rewriters that a request picks (Waver 4.6), before anything else is loaded. */
import { type Context, type Pick, type Picks, Prompt, WaverError } from "../../plugins/index.ts";
import { negativeOf, type Pipeline } from "./pipeline.ts";
import { type GenerateInput, type Sample, samplesOf } from "./request.ts";

export interface Rewritten {
  /** With the prompts that the networks are given. */
  readonly request: GenerateInput;
  readonly samples: readonly Sample[];
}

/** What is to be made: as asked, or with every prompt rewritten once; a sample then says what was asked. */
export async function rewritten(asked: GenerateInput, picks: Picks, model: Pipeline, ctx: Context): Promise<Rewritten> {
  const samples = samplesOf(asked);
  const rewriters = (picks["rewrite"] ?? []) as readonly Pick[];
  if (rewriters.length === 0) return { request: asked, samples };
  const texts = [...new Set(samples.map(({ prompt }) => prompt))];
  const seconds = secondsOf(asked, model);
  const about = { negative: negativeOf(asked, model), ...(seconds === undefined ? {} : { seconds }) };
  const prompts = new Map<string, Prompt>();
  for (const text of texts) {
    const key = `rewrite ${new Bun.CryptoHasher("sha256").update(text).digest("hex")}`;
    const prompt = await ctx.unit(key, Prompt, () => throughAll(rewriters, { text, ...about }, ctx));
    prompts.set(text, prompt);
    ctx.progress(prompts.size, texts.length, "rewrite", { from: text, to: prompt.text });
  }
  const [negative, ...others] = new Set([...prompts.values()].map((prompt) => prompt.negative));
  if (others.length > 0)
    throw new WaverError("invalid_input", "the rewriters make a negative prompt of its own for each prompt", {
      hint: "make one prompt a job: all prompts of a job share one negative prompt",
    });
  const changed = (text: string): string => (prompts.get(text) as Prompt).text;
  return {
    request: {
      ...asked,
      prompt: texts.map(changed),
      promptFile: undefined,
      negativePrompt: negative as string,
    },
    samples: samples.map((sample) => ({ ...sample, prompt: changed(sample.prompt), asked: sample.prompt })),
  };
}

async function throughAll(rewriters: readonly Pick[], prompt: Prompt, ctx: Context): Promise<Prompt> {
  let value = prompt;
  for (const { id, ...options } of rewriters) {
    // let go of at once: a language model must not stand in the way of what comes next
    using rewrite = await ctx.use("rewrite", id, options);
    value = await rewrite(value);
  }
  if (value.text.trim() === "")
    throw new WaverError("plugin_failed", "the rewriters left nothing of the prompt", {
      data: { prompt: prompt.text },
    });
  return value;
}

/** The length asked for, as far as the request and the model's folder say: rewriters tell 5 and 10 seconds apart. */
function secondsOf({ seconds, numFrames, fps }: GenerateInput, { defaults }: Pipeline): number | undefined {
  if (seconds !== undefined) return seconds;
  const [frames, rate] = [numFrames ?? defaults.numFrames, fps ?? defaults.fps];
  return frames === undefined || rate === undefined ? undefined : frames / rate;
}
