/**
 * The hooks: every place where a plugin can add something, with what goes in, what comes out and how several combine.
 *
 * `pick`: the request names one provider. `chain`: every chosen provider in order, each fed the last one's value.
 * `gather`: all chosen providers, results keyed by provider id.
 */
import { z } from "zod";
import type { Tensor } from "../native/index.ts";
import {
  type AccelerateRequest,
  type Accelerator,
  type Adapter,
  type AdaptRequest,
  Caption,
  CheckpointRef,
  type ClipFrames,
  type Codec,
  type Denoiser,
  EvalSet,
  Evaluation,
  ForeignModel,
  FrameView,
  type Guide,
  type ImageEncoder,
  type Objective,
  type ObjectiveRequest,
  type Perception,
  Prompt,
  type RefineRequest,
  Relation,
  type SampleRequest,
  Scores,
  Source,
  type Store,
  Task,
  type TextEncoder,
} from "./types.ts";

/**
 * Minor: a new hook or an optional field. Major: anything else. 0.x until generation, curation and training have all been
 * built on it, and there both stand one place further right.
 */
export const HOOK_API = "0.1.6";

export type Mode = "pick" | "chain" | "gather";

export interface Hook<M extends Mode, I extends z.ZodType, O extends z.ZodType, T extends z.ZodObject> {
  readonly mode: M;
  readonly input: I;
  readonly output: O;
  /** Plain facts every provider states; the planner matches them before anything is loaded. */
  readonly traits: T;
  readonly summary: string;
  readonly since: string;
  /** True when input and output can cross a process, so that the provider may run elsewhere. */
  readonly portable: boolean;
}

/** A value that stays in one process: checked by type only. */
const local = <T>(what: string): z.ZodType<T> =>
  z
    .custom<T>((value) => (value !== null && typeof value === "object") || typeof value === "function", {
      message: `expected ${what}`,
    })
    .meta({ local: what });
const none = z.object({});

const define = <M extends Mode, I extends z.ZodType, O extends z.ZodType, T extends z.ZodObject>(
  mode: M,
  input: I,
  output: O,
  traits: T,
  summary: string,
  how: { portable: boolean; since?: string },
): Hook<M, I, O, T> => ({ mode, input, output, traits, summary, since: how.since ?? "0.1.0", portable: how.portable });

const frames = local<ClipFrames>("a clip and its frames");
/** Diffusers/Transformers class names that a component loads, as `model_index.json` and `config.json` spell them. */
const classes = z.array(z.string());

export const hooks = {
  segment: define(
    "pick",
    frames,
    z.array(z.object({ start: z.number(), end: z.number() })),
    z.object({ view: FrameView }),
    "cuts a source into shots, in seconds",
    { portable: true },
  ),
  score: define(
    "gather",
    frames,
    Scores,
    z.object({ view: FrameView, measures: z.array(z.string()).min(1) }),
    "measures of one clip, from frames decoded once for all scorers",
    { portable: true },
  ),
  caption: define(
    "pick",
    frames,
    Caption.nullable(),
    z.object({ view: FrameView.nullable() }),
    "words for one clip; null when this captioner has none",
    { portable: true },
  ),
  embed: define(
    "pick",
    frames,
    z.instanceof(Float32Array),
    // null: as many as the weights that the options name have; such a provider is never chosen unasked
    z.object({ view: FrameView, dim: z.int().positive().nullable() }),
    "one feature vector of a clip",
    { portable: true },
  ),
  select: define("chain", Relation, Relation, none, "keeps, drops or repeats rows of a clip table", { portable: true }),
  rewrite: define("chain", Prompt, Prompt, none, "rewrites a prompt", { portable: true }),
  encodeText: define(
    "pick",
    none,
    local<TextEncoder>("a text encoder"),
    z.object({ classes }),
    "text features; options name the folder",
    { portable: false },
  ),
  encodeImage: define(
    "pick",
    none,
    local<ImageEncoder>("an image encoder"),
    z.object({ classes }),
    "tokens of the images that a video continues; options name the folder",
    { portable: false, since: "0.1.1" },
  ),
  perceive: define(
    "pick",
    none,
    local<Perception>("a perception network"),
    z.object({ taps: z.int().positive() }),
    "feature maps of images, with gradients",
    { portable: false },
  ),
  codec: define(
    "pick",
    none,
    local<Codec>("a codec"),
    z.object({ classes, latent: z.string() }),
    "video to latents and back",
    { portable: false },
  ),
  family: define(
    "pick",
    none,
    local<Denoiser>("a denoiser"),
    z.object({ classes, tasks: z.array(Task), trainable: z.boolean(), negativePrompt: z.string().optional() }),
    "a network that denoises latents",
    { portable: false },
  ),
  layout: define(
    "pick",
    z.object({ path: z.string() }),
    ForeignModel.nullable(),
    none,
    "reads a folder or file that is no pipeline in Diffusers' layout as one; null when it knows nothing like it",
    { portable: true, since: "0.1.4" },
  ),
  adapt: define(
    "pick",
    local<AdaptRequest>("a network to adapt"),
    local<Adapter>("an adapter"),
    z.object({ formats: z.array(z.string()).min(1) }),
    "small weights that ride on a network's own; options name the file",
    { portable: false },
  ),
  accelerate: define(
    "pick",
    local<AccelerateRequest>("an accelerate request"),
    local<Accelerator>("an accelerator"),
    // whether it may be used where passes are spread over several ranks: then it must not look into a pass
    z.object({ ranks: z.boolean() }),
    "leaves out of a denoiser's passes what hardly changes between steps",
    { portable: false, since: "0.1.3" },
  ),
  guide: define("pick", none, local<Guide>("a guide"), none, "turns one or more predictions into the guided one", {
    portable: false,
  }),
  sample: define(
    "pick",
    local<SampleRequest>("a sample request"),
    local<Tensor>("latents [B C T h w]"),
    z.object({ classes }),
    "integrates the flow from noise to latents",
    { portable: false },
  ),
  refine: define(
    "pick",
    local<RefineRequest>("a refine request"),
    local<Tensor>("video [B 3 F H W]"),
    z.object({ classes, maxScale: z.number() }),
    "raises the resolution of a video",
    { portable: false },
  ),
  objective: define(
    "pick",
    local<ObjectiveRequest>("an objective request"),
    local<Objective>("an objective"),
    z.object({ tasks: z.array(Task), fields: z.array(z.string()) }),
    "what a training stage minimises, and with which optimisers",
    { portable: false },
  ),
  merge: define(
    "pick",
    z.object({ checkpoints: z.array(CheckpointRef).min(1), output: z.string() }),
    CheckpointRef,
    none,
    "one checkpoint from several",
    { portable: true },
  ),
  evaluate: define(
    "gather",
    EvalSet,
    Evaluation,
    z.object({ measures: z.array(z.string()).min(1) }),
    "judges generated clips",
    { portable: true },
  ),
  storage: define(
    "pick",
    none,
    local<Store>("a store"),
    z.object({ schemes: z.array(z.string()) }),
    "keeps artefacts by content",
    { portable: false },
  ),
} as const;

export type Hooks = typeof hooks;
export type HookName = keyof Hooks;
export type In<H extends HookName> = z.output<Hooks[H]["input"]>;
export type Out<H extends HookName> = z.output<Hooks[H]["output"]>;
export type Traits<H extends HookName> = z.output<Hooks[H]["traits"]>;
export { Source };
