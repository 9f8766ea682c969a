/** What `generate` is asked for, and what follows from it: the list of samples, their sizes, the task. */
import { existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import {
  type LatentSpec,
  OFFLOAD,
  Offload,
  problemsOfOffload,
  type SampleDefaults,
  Task,
  WaverError,
  WEIGHTS,
  WeightForm,
} from "../../plugins/index.ts";
import { problemsOfRanks, rankFields } from "../runner/mesh.ts";
import { TileSize } from "./tiles.ts";

const count = z.int().positive();
const PromptList = z.union([z.string(), z.array(z.string()).min(1)]);

/** Far beyond what any text encoder reads (512 tokens are about 2,500 characters): a mistake, such as a whole file. */
const MOST_CHARACTERS = 20_000;

const Fields = z.strictObject({
  model: z.string().meta({
    description:
      "name of a model on this machine, folder with a model_index.json or in another layout that a plugin knows, or the digest of one",
    format: "model",
  }),
  prompt: PromptList.optional().meta({ description: "what to show; several prompts make several videos" }),
  promptFile: z.string().optional().meta({ description: "text file with a prompt a line, in place of prompt" }),
  negativePrompt: z
    .string()
    .optional()
    .meta({ description: "what not to show; guidance points away from it. The model's own when absent" }),
  task: Task.optional().meta({
    description: "t2i, t2v, i2v or interpolate; follows from image, lastImage and numFrames when absent",
  }),
  image: z.string().optional().meta({ description: "first frame", format: "path", media: "image" }),
  lastImage: z.string().optional().meta({ description: "last frame", format: "path", media: "image" }),
  imageFit: z.enum(["stretch", "cover"]).default("stretch").meta({
    description: "an image of another shape than the video: stretched, as diffusers does, or its middle kept",
  }),
  width: count.optional().meta({ description: "pixels; the model's own size when absent" }),
  height: count.optional().meta({ description: "pixels; the model's own size when absent" }),
  numFrames: count.optional().meta({ description: "1 + a multiple of the codec's stride in time; 1 makes an image" }),
  seconds: z.number().positive().max(600).optional().meta({
    description: "length in place of numFrames; the nearest that the codec can make",
  }),
  fps: z.number().positive().max(240).optional().meta({ description: "frames a second of the file" }),
  numSteps: count.max(1000).optional().meta({ description: "denoise steps" }),
  shift: z.number().positive().optional().meta({ description: "timestep shift; the scheduler's own when absent" }),
  seed: z
    .union([z.int().nonnegative(), z.array(z.int().nonnegative()).min(1)])
    .default(0)
    .meta({ description: "of the first sample; the next ones count up. A list gives each its own" }),
  numSamples: count.default(1).meta({ description: "samples of each prompt" }),
  batchSize: count.default(1).meta({ description: "samples denoised together" }),
  maxTokens: count.optional().meta({ description: "longest prompt in tokens; longer ones are cut" }),
  dtype: z
    .enum(["float32", "bfloat16"])
    .optional()
    .meta({ description: "precision of the networks; as stored when absent" }),
  weights: WeightForm.optional().meta({ description: WEIGHTS }),
  latents: z
    .string()
    .optional()
    .meta({ description: "safetensors file with starting latents in place of noise; file#key when it holds several" }),
  component: z
    .array(z.string().regex(/^\w+=./, "expected NAME=PATH, for instance vae=other.safetensors"))
    .default([])
    .meta({
      description: "files or folders in place of the model's own parts, each NAME=PATH: transformer=, vae= ...",
    }),
  lora: z
    .array(z.string().min(1).meta({ format: "path" }))
    .default([])
    .meta({ description: "LoRA files, each PATH or PATH:WEIGHT; several add up" }),
  lora2: z
    .array(z.string().min(1).meta({ format: "path" }))
    .optional()
    .meta({
      description: "the same for the second of two denoisers, which works on less noise; those of lora when absent",
    }),
  ...rankFields,
  offload: Offload.default("auto").meta({ description: OFFLOAD }),
  tileSize: TileSize,
  graph: z.boolean().default(false).meta({
    description:
      "on a GPU, each prompt's pass is recorded once and replayed at every step; a CPU has nothing to record",
  }),
  output: z.string().optional().meta({ description: "folder for the results, or the file when there is one result" }),
  minPsnr: z.number().nonnegative().max(60).default(40).meta({
    description:
      "decibels at which the video file decodes to the frames at least; 0 keeps it small and 4:2:0, which plays everywhere",
  }),
  metadata: z.boolean().default(true).meta({ description: "store the recipe in the file" }),
  keepFrames: z.boolean().default(false).meta({ description: "also keep the frames before encoding, as safetensors" }),
  keepLatents: z.boolean().default(false).meta({ description: "also keep the final latents, as safetensors" }),
  profile: z.boolean().default(false).meta({ description: "also say which operators took the time, stage by stage" }),
});
export const GenerateInput = Fields.superRefine((request, ctx) => {
  for (const [path, message] of problemsOf(request)) ctx.addIssue({ code: "custom", path: [path], message });
});
export type GenerateInput = z.output<typeof GenerateInput>;

/** What can be told to be wrong before a model is looked at. */
function* problemsOf(
  request: z.output<typeof Fields>,
): Generator<[field: keyof z.output<typeof Fields>, problem: string]> {
  const { prompt, promptFile, negativePrompt, numFrames, seconds } = request;
  if ((prompt === undefined) === (promptFile === undefined)) yield ["prompt", "give either prompt or promptFile"];
  const fields = { prompt: [prompt ?? []].flat(), negativePrompt: [negativePrompt ?? ""] } as const;
  for (const [field, texts] of Object.entries(fields) as [keyof typeof fields, readonly string[]][]) {
    const long = texts.find((text) => text.length > MOST_CHARACTERS);
    if (long !== undefined)
      yield [
        field,
        `it has ${long.length} characters, and ${MOST_CHARACTERS} are the most; promptFile takes one prompt a line`,
      ];
  }
  if (fields.prompt.some((text) => text.trim() === "")) yield ["prompt", "it is empty; say in words what to show"];
  if (numFrames !== undefined && seconds !== undefined) yield ["seconds", "give either seconds or numFrames"];
  yield* problemsOfRanks(request.ranks, request.parallel);
  yield* problemsOfOffload(request);
  const graph = request.graph ? graphProblem(request) : undefined;
  if (graph !== undefined) yield ["graph", graph];
  if (request.parallel?.shardWeights === true && [...request.lora, ...(request.lora2 ?? [])].length > 0)
    yield [
      "parallel",
      "LoRA needs whole weights: leave parallel.shardWeights out, or merge the LoRA into a model first",
    ];
}

/** Why passes cannot be recorded. */
function graphProblem({ ranks, offload }: { ranks: number; offload: Offload }): string | undefined {
  if (ranks > 1)
    return "what ranks tell each other cannot be part of a recorded pass: use one of the two, graph or ranks";
  if (offload === "blocks")
    return "weights that come and go cannot be part of a recorded pass: use one of the two, graph or offload";
  return undefined;
}

/** Whether weights are fitted in by other means already, or must stay where they are, which offloading excludes. */
export const keepsWhole = ({ weights, graph, parallel }: GenerateInput): boolean =>
  weights !== undefined || graph || parallel?.shardWeights === true;

/** One video or image to make. */
export interface Sample {
  readonly index: number;
  readonly prompt: string;
  /** The prompt before it was rewritten. */
  readonly asked?: string;
  readonly seed: number;
}

export interface Size {
  readonly width: number;
  readonly height: number;
  readonly numFrames: number;
}

/** Every prompt with every seed, prompt by prompt. */
export function samplesOf(request: GenerateInput): Sample[] {
  const prompts = promptsOf(request);
  const { seed, numSamples } = request;
  const seeds = Array.isArray(seed) ? seed : Array.from({ length: numSamples }, (_, i) => seed + i);
  if (Array.isArray(seed) && numSamples !== 1 && seed.length !== numSamples)
    throw new WaverError("invalid_input", `seed lists ${seed.length} seeds for numSamples ${numSamples}`, {
      hint: "leave numSamples out: a list gives one sample a seed",
    });
  return prompts
    .flatMap((prompt) => seeds.map((each) => ({ prompt, seed: each })))
    .map((sample, index) => ({ index, ...sample }));
}

function promptsOf({ prompt, promptFile }: GenerateInput): string[] {
  if (prompt !== undefined) return [prompt].flat();
  if (!existsSync(promptFile as string)) throw new WaverError("not_found", `promptFile ${promptFile} is not there`);
  const lines = readFileSync(promptFile as string, "utf8")
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (lines.length === 0) throw new WaverError("invalid_input", `promptFile ${promptFile} holds no prompt`);
  const long = lines.findIndex((line) => line.length > MOST_CHARACTERS);
  if (long >= 0)
    throw new WaverError(
      "invalid_input",
      `prompt ${long + 1} of ${promptFile} has ${lines[long]?.length} characters, and ${MOST_CHARACTERS} are the most`,
      { hint: "one prompt a line" },
    );
  return lines;
}

export function taskOf({ task, image, lastImage }: GenerateInput, numFrames: number): Task {
  if (lastImage !== undefined && image === undefined)
    throw new WaverError("invalid_input", "lastImage needs image, the first frame");
  const natural: Task =
    lastImage !== undefined ? "interpolate" : image !== undefined ? "i2v" : numFrames === 1 ? "t2i" : "t2v";
  if (task !== undefined && task !== natural) {
    const needs: Record<Task, string> = {
      i2v: "an image and no lastImage",
      interpolate: "image and lastImage",
      t2i: "numFrames 1 and no image",
      t2v: "more than one frame and no image",
    };
    throw new WaverError("invalid_input", `task ${task} needs ${needs[task]}`);
  }
  if (natural !== "t2i" && numFrames === 1)
    throw new WaverError("invalid_input", `task ${natural} needs more than one frame`, { hint: "raise numFrames" });
  return natural;
}

/** Refuses what this checkpoint does not do, saying what to change. */
export function checkTask(task: Task, tasks: readonly Task[], className: string): void {
  if (tasks.includes(task)) return;
  const what = `this ${className} checkpoint`;
  const takesImages = tasks.includes("i2v") || tasks.includes("interpolate");
  const refuse = (message: string, hint: string): never => {
    throw new WaverError("invalid_input", message, { hint });
  };
  if (task === "interpolate" && tasks.includes("i2v"))
    refuse(`${what} can be given a first frame and no last one`, "leave lastImage out");
  if (task === "i2v" && tasks.includes("interpolate"))
    refuse(`${what} goes from a first to a last frame`, "give lastImage as well");
  if (task === "i2v" || task === "interpolate")
    refuse(`${what} makes video from text only`, "leave image out, or use an image-to-video checkpoint");
  if (takesImages && !tasks.includes("t2v"))
    refuse(`${what} continues an image`, `give ${tasks.includes("i2v") ? "image" : "image and lastImage"}`);
  refuse(`${className} does not do ${task}`, `it does ${tasks.join(", ")}`);
}

/** The first of these that says: the request, the model's folder, the family. */
export function resolved<K extends keyof SampleDefaults>(
  key: K,
  ...sources: readonly { readonly [P in keyof SampleDefaults]?: number | undefined }[]
): number {
  for (const source of sources) if (source[key] !== undefined) return source[key];
  throw new WaverError("invalid_input", `this model states no ${key} of its own`, { hint: `give ${key}` });
}

/** The number of frames nearest to a length: 1 more than a multiple of the codec's stride in time. */
export const framesIn = (seconds: number, fps: number, stride: number): number =>
  1 + stride * Math.max(1, Math.round((seconds * fps - 1) / stride));

/** Refuses sizes that the codec or the patches of the network would cut. */
export function checkSize(
  { width, height, numFrames }: Size,
  { stride }: LatentSpec,
  patch: readonly [number, number, number] = [1, 1, 1],
): void {
  if ((numFrames - 1) % stride[0] !== 0) {
    const below = 1 + stride[0] * Math.floor((numFrames - 1) / stride[0]);
    throw new WaverError("invalid_input", `numFrames ${numFrames} is not 1 more than a multiple of ${stride[0]}`, {
      hint: `use ${below} or ${below + stride[0]}`,
    });
  }
  const sides = { height: [height, stride[1] * patch[1]], width: [width, stride[2] * patch[2]] } as const;
  for (const [name, [side, unit]] of Object.entries(sides))
    if (side % unit !== 0)
      throw new WaverError("invalid_input", `${name} ${side} does not divide by ${unit}`, {
        hint: `use ${Math.max(unit, Math.floor(side / unit) * unit)} or ${Math.ceil(side / unit) * unit}`,
      });
  const latentFrames = 1 + (numFrames - 1) / stride[0];
  if (latentFrames % patch[0] !== 0)
    throw new WaverError(
      "invalid_input",
      `numFrames ${numFrames} gives ${latentFrames} latent frames, which do not divide by ${patch[0]}`,
    );
}
