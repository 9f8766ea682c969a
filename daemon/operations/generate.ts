/**
 * Text, and frames if any are known, to video: encode the text once, denoise from seeded noise, decode into a file.
 *
 * Components come from the model folder by their class, sampler and guide are slots. A killed job finds its text again in
 * seconds and its latents at the step where they were: work is published a step, a batch, a file at a time.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import {
  type Context,
  Digest,
  defineOperation,
  type Pick,
  type Picks,
  type Slot,
  WaverError,
} from "../../plugins/index.ts";
import { Denoised, Drift, type Pair, Savings, savingsOf } from "../generation/acceleration.ts";
import { adapterSpec } from "../generation/adapters.ts";
import { Plan } from "../generation/figures.ts";
import { Generation, Item } from "../generation/job.ts";
import { type Memory, Meter, OperatorCosts, StageCost } from "../generation/meter.ts";
import { openPipeline, type Pipeline, replacementSpec } from "../generation/pipeline.ts";
import { planGenerate } from "../generation/plan.ts";
import { GenerateInput } from "../generation/request.ts";
import { rewritten } from "../generation/rewrite.ts";
import { inTiles } from "../generation/tiles.ts";
import { ranksOf } from "../runner/mesh.ts";

/** Of `generate`, and of a plan for it. */
export const generateSlots = {
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
  cache: {
    hook: "accelerate",
    summary:
      "leaves out what hardly changes between steps: faster and not quite the same; the result says what it gained",
    optional: true,
  },
} as const satisfies Readonly<Record<string, Slot>>;

export const generate = defineOperation({
  kind: "job",
  summary: "makes videos or images from text, and from a first or last frame",
  runs: "device",
  input: GenerateInput,
  output: z.object({
    items: z.array(Item),
    /** Predicted and measured, by stage. */
    cost: z.array(StageCost),
    /** What the cache saved and, where that was asked for, at what price. */
    cache: Savings.optional(),
    /** Which operators took the time, by stage: of the attempt that ended the job, on the first of several ranks. */
    profile: OperatorCosts.optional(),
  }),
  slots: generateSlots,
  reads: ({ model, promptFile, image, lastImage, latents, component, lora, lora2 = [] }) =>
    // the other parts of a model that is one file lie elsewhere, and only its layout knows where
    isFile(model)
      ? null
      : [
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
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --ranks 4 --parallel cfg',
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --cache first-block --cache.measure',
    'waver generate --model MODEL --prompt "a red ball" --component transformer=other.safetensors',
    'waver generate --model MODEL --prompt "a red ball rolls over grass" --rewrite local --rewrite.path CHAT_MODEL',
    "waver generate --model MODEL --prompt-file prompts.txt --image first.png --guide video-apg --output out/",
  ],
  async run(asked, picks, ctx) {
    const cache = picks["cache"] as Pick | undefined;
    const accelerators = ctx.providers("accelerate");
    if (ranksOf(asked) !== null && accelerators.some(({ id, traits }) => id === cache?.id && !traits.ranks)) {
      const others = accelerators.flatMap(({ id, traits }) => (traits.ranks ? [id] : []));
      throw new WaverError(
        "invalid_input",
        `cache ${cache?.id} works on one rank only: ranks would have to decide alike`,
        {
          hint: `leave ranks out, or cache${others.length === 0 ? "" : `, or use cache ${others.join(" or ")}`}`,
        },
      );
    }
    const model = await openPipeline(asked.model, asked.component, ctx);
    const { request, samples } = await rewritten(asked, picks, model, ctx);
    const plan = await planned(request, picks, model, ctx);
    const meter = new Meter(await memoryOf(ctx.device), request.profile ? await operatorsOf() : undefined);
    const tiled = inTiles(model, request.tileSize ?? plan?.tileSize ?? null, ctx);
    using job = new Generation({ request, picks, model: tiled, ctx, meter, offload: plan?.offload ?? null });
    const items: Item[] = [];
    const pairs: Pair[] = [];
    const drift: Drift[] = [];
    for (let at = 0; at < samples.length; at += request.batchSize) {
      const batch = samples.slice(at, at + request.batchSize);
      const denoised = await ctx.unit(`denoised ${at}`, Denoised, () => job.denoise(batch));
      for (const [row, sample] of batch.entries()) {
        items.push(
          await ctx.unit(`file ${sample.index}`, Item, () =>
            job.decode(sample, join(ctx.workDir, denoised.file), row, samples.length),
          ),
        );
        ctx.progress(items.length, samples.length, "samples");
      }
      const plain = denoised.isMeasured
        ? await ctx.unit(`plain ${at}`, Denoised, () => job.denoise(batch, { isPlain: true }))
        : undefined;
      pairs.push({ denoised, plain });
      if (plain === undefined) continue;
      const files = [denoised.file, plain.file] as const;
      for (const [row, sample] of batch.entries())
        drift.push(await ctx.unit(`drift ${sample.index}`, Drift, () => job.drift(sample, row, files)));
    }
    const cost = await ctx.unit("cost", z.array(StageCost), async () => meter.beside(plan));
    return {
      items,
      cost,
      ...(cache === undefined ? {} : { cache: savingsOf(cache.id, pairs, drift) }),
      ...(request.profile ? { profile: await ctx.unit("profile", OperatorCosts, async () => meter.operators()) } : {}),
    };
  },
});

/** The plan of a job, once; a model that cannot be planned is no reason not to run it. */
const planned = (request: GenerateInput, picks: Picks, model: Pipeline, ctx: Context): Promise<Plan | null> =>
  ctx.unit("plan", Plan.nullable(), async () => {
    try {
      const plan = await planGenerate(request, picks, model, ctx, { asRank: ranksOf(request) !== null });
      const { flops, seconds, peakBytes, leastBytes, offload, tileSize } = plan;
      ctx.log("planned", { flops, seconds, peakBytes, leastBytes });
      if (offload.length > 0)
        ctx.log("weights_offloaded", {
          networks: offload,
          reason:
            request.offload === "blocks"
              ? "asked for"
              : `their weights do not fit the memory budget of ${ctx.memoryBudget} bytes`,
        });
      if (tileSize !== null && request.tileSize === undefined)
        ctx.log("frames_in_tiles", {
          tileSize,
          reason: `whole frames of ${plan.width} x ${plan.height} do not fit the memory budget of ${ctx.memoryBudget} bytes beside the network; tileSize 0 codes them whole all the same`,
        });
      return plan;
    } catch (error) {
      ctx.signal.throwIfAborted();
      ctx.log("plan_failed", { level: "warn", reason: (error as Error).message });
      return null;
    }
  });

const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

const operatorsOf = async () => (await import("../runner/generation/outlines.ts")).operators;

async function memoryOf(device: string): Promise<Memory | null> {
  const { cpuMemory } = await import("../runner/generation/outlines.ts");
  return device === "cpu" ? cpuMemory : null;
}
