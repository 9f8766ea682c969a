/**
 * Text, and frames if any are known, to video: encode the text once, denoise from seeded noise, decode into a file.
 *
 * Components come from the model folder by their class, sampler and guide are slots. A killed job finds its text again in
 * seconds and its latents at the step where they were: work is published a step, a batch, a file at a time.
 */
import { join } from "node:path";
import { z } from "zod";
import { Digest, defineOperation } from "../../plugins/index.ts";
import { adapterSpec } from "../generation/adapters.ts";
import { Generation, Item } from "../generation/job.ts";
import { openPipeline, replacementSpec } from "../generation/pipeline.ts";
import { GenerateInput } from "../generation/request.ts";
import { rewritten } from "../generation/rewrite.ts";
import { ranksOf } from "../runner/mesh.ts";

export const generate = defineOperation({
  kind: "job",
  summary: "makes videos or images from text, and from a first or last frame",
  runs: "device",
  input: GenerateInput,
  output: z.object({ items: z.array(Item) }),
  slots: {
    rewrite: {
      hook: "rewrite",
      many: true,
      summary: "rewrite the prompts first, in order; the result says what was made of each",
      optional: true,
    },
    sampler: { hook: "sample", summary: "integrates the flow; the model's own scheduler when absent", optional: true },
    guide: { hook: "guide", summary: "how the prompt is enforced", default: { id: "cfg" } },
    guide2: {
      hook: "guide",
      summary: "the same for the second of two denoisers, which works on less noise; guide's own when absent",
      optional: true,
    },
  },
  reads: ({ model, promptFile, image, lastImage, latents, component, lora, lora2 = [] }) =>
    [
      model,
      promptFile,
      image,
      lastImage,
      latents?.replace(/#[^#/]*$/, ""),
      ...component.map((text) => replacementSpec(text).path),
      ...[...lora, ...lora2].map((text) => adapterSpec(text).path),
    ]
      .filter((path) => path !== undefined)
      .filter((path) => !Digest.safeParse(path).success),
  ranks: ranksOf,
  writes: ({ items }) =>
    items.flatMap(({ path, latents, frames }) => [path, latents, frames].filter((each) => each !== undefined)),
  examples: [
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --output ball.mp4',
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --ranks 4 --parallel.replicas 2',
    'waver generate --model MODEL --prompt "a red ball" --component transformer=other.safetensors',
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --rewrite local --rewrite.path CHAT_MODEL',
    "waver generate --model MODEL --prompt-file prompts.txt --image first.png --guide video-apg --output out/",
  ],
  async run(asked, picks, ctx) {
    const model = await openPipeline(asked.model, asked.component, ctx);
    const { request, samples } = await rewritten(asked, picks, model, ctx);
    using job = new Generation(request, picks, model, ctx);
    const items: Item[] = [];
    for (let at = 0; at < samples.length; at += request.batchSize) {
      const batch = samples.slice(at, at + request.batchSize);
      const latents = await ctx.unit(`latents ${at}`, z.string(), () => job.denoise(batch));
      for (const [row, sample] of batch.entries()) {
        items.push(
          await ctx.unit(`file ${sample.index}`, Item, () =>
            job.decode(sample, join(ctx.workDir, latents), row, samples.length),
          ),
        );
        ctx.progress(items.length, samples.length, "samples");
      }
    }
    return { items };
  },
});
