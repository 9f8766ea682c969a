/**
 * Generation in the shape of OpenAI's videos API, over the operation `generate`: a video is a job of one sample. Errors are
 * the house's, with the `error` object beside them that clients of that API read.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { basename, isAbsolute, join } from "node:path";
import { z } from "zod";
import { ERROR_CODES, type ErrorBody, WaverError } from "../../plugins/errors.ts";
import { Digest } from "../../plugins/types.ts";
import type { Jobs } from "../jobs/jobs.ts";
import { isTerminal, JobId, type JobView } from "../wire.ts";
import type { Artifacts } from "./artifacts.ts";
import type { Daemon } from "./daemon.ts";
import { errorResponse } from "./gate.ts";
import { type Asked, IdempotencyKey, parsed, type Route } from "./route.ts";
import { Upload, type Uploads } from "./uploads.ts";

const OPERATION = "generate";

export const VideoId = z
  .string()
  .regex(/^video_[0-9a-z]{16}$/, "a video id looks like video_ and 16 letters or digits");
const jobIdOf = (video: string): JobId => JobId.parse(video.replace(/^video_/, "job_"));
const videoIdOf = (job: JobId): string => job.replace(/^job_/, "video_");

/** Numbers of a form are text. */
const formNumber = (schema: z.ZodNumber): z.ZodType<number, number | string> =>
  z.union([
    schema,
    z
      .string()
      .regex(/^\d{1,9}(\.\d{1,6})?$/, "a number")
      .transform(Number)
      .pipe(schema),
  ]);

/** A text that cannot be left out, and what to say when it is. */
const needed = (message: string): z.ZodString =>
  z.string({ error: ({ input }) => (input === undefined ? message : undefined) });

const Create = z.strictObject({
  prompt: needed("say in words what to show").meta({ description: "what to show" }),
  model: needed("name a model; `waver models list` shows what is here").meta({
    description: "name of a model on this machine (`waver models list`), its folder, or a digest",
  }),
  input_reference: z
    .union([z.string(), z.strictObject({ image_url: z.string() }), z.instanceof(Upload).meta({ type: "string" })])
    .optional()
    .meta({
      description: "first frame: a data URL, an absolute path on the daemon's machine, or a file part of a form",
    }),
  seconds: formNumber(z.number().positive().max(600)).optional().meta({
    description: "length; the nearest that the model can make",
  }),
  size: z
    .string()
    .regex(/^\d{1,5}x\d{1,5}$/, "WIDTHxHEIGHT")
    .optional()
    .meta({ description: "WIDTHxHEIGHT" }),
  negative_prompt: z.string().optional(),
  seed: formNumber(z.int().nonnegative()).optional(),
  fps: formNumber(z.number().positive().max(240)).optional(),
  num_frames: formNumber(z.int().positive()).optional().meta({ description: "in place of seconds" }),
  num_inference_steps: formNumber(z.int().positive()).optional(),
  guidance_scale: formNumber(z.number()).optional(),
  max_sequence_length: formNumber(z.int().positive()).optional().meta({
    description: "longest prompt in tokens; longer ones are cut",
  }),
  latents: z
    .string()
    .refine((path) => isAbsolute(path), "an absolute path on the daemon's machine")
    .optional()
    .meta({ description: "safetensors file with starting latents in place of noise; file#key when it holds several" }),
});

export const Video = z.object({
  id: VideoId,
  object: z.literal("video"),
  model: z.string(),
  prompt: z.string(),
  status: z.enum(["queued", "in_progress", "completed", "failed"]),
  /** Per cent. */
  progress: z.int(),
  created_at: z.int(),
  completed_at: z.int().nullable(),
  expires_at: z.null(),
  seconds: z.string().nullable(),
  size: z.string().nullable(),
  remixed_from_video_id: z.null(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});
export type Video = z.output<typeof Video>;

const ListQuery = z.strictObject({
  after: VideoId.optional().meta({ description: "id after which the page begins" }),
  limit: z
    .string()
    .regex(/^\d{1,3}$/, "a whole number")
    .transform(Number)
    .refine((n) => n >= 1 && n <= 100, "1 to 100")
    .optional()
    .meta({ description: "most videos in the answer; default 20" }),
  order: z.enum(["asc", "desc"]).optional().meta({ description: "by time of creation; default desc" }),
});
const ContentQuery = z.strictObject({ variant: z.enum(["video"]).optional() });
const Made = z.object({ items: z.array(z.object({ digest: Digest })).min(1) });

export interface VideosOptions {
  readonly home: string;
  readonly jobs: Jobs;
  readonly artifacts: Artifacts;
  readonly uploads: Uploads;
}

export class Videos {
  readonly #options: VideosOptions;
  /** One empty file a deleted video: its job and what it made stay in journal and store, where others may name them. */
  readonly #deleted: string;

  constructor(options: VideosOptions) {
    this.#options = options;
    this.#deleted = join(options.home, "videos", "deleted");
    mkdirSync(this.#deleted, { recursive: true, mode: 0o700 });
  }

  async create(body: unknown, idempotencyKey: string | null): Promise<Video> {
    const { jobs, uploads } = this.#options;
    const asked = parsed(Create, body, "body");
    const [width, height] = asked.size?.split("x").map(Number) ?? [];
    const reference = asked.input_reference;
    const image =
      reference instanceof Upload
        ? uploads.picture(reference.bytes, "input_reference")
        : imageOf(typeof reference === "object" ? reference.image_url : reference, uploads);
    const fields = {
      prompt: asked.prompt,
      model: asked.model,
      ...{ image, width, height, seconds: asked.seconds, negativePrompt: asked.negative_prompt, seed: asked.seed },
      ...{ fps: asked.fps, numFrames: asked.num_frames, numSteps: asked.num_inference_steps },
      ...{ maxTokens: asked.max_sequence_length, latents: asked.latents },
      guide: asked.guidance_scale === undefined ? undefined : { scale: asked.guidance_scale },
    };
    const { view } = await jobs.submit({
      operation: OPERATION,
      body: Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
      ...(idempotencyKey === null ? {} : { idempotencyKey }),
    });
    return videoOf(view);
  }

  async get(id: string): Promise<Video> {
    return videoOf(await this.#job(id));
  }

  async content(id: string, range: string | null): Promise<Response> {
    const job = await this.#job(id);
    const made = Made.safeParse(job.output);
    if (job.state !== "done" || !made.success)
      throw new WaverError("conflict", `the video is ${videoOf(job).status}, it has no content`, {
        hint: isTerminal(job.state) ? "its error says why" : "ask again when its status is completed",
      });
    return this.#options.artifacts.content((made.data.items[0] as { digest: Digest }).digest, null, range);
  }

  /** Ends it if it is being made, and forgets it here. */
  async delete(id: string): Promise<void> {
    const job = await this.#job(id);
    if (!isTerminal(job.state)) await this.#options.jobs.cancel(job.id);
    writeFileSync(join(this.#deleted, job.id), "");
  }

  async list({ after, limit = 20, order = "desc" }: z.output<typeof ListQuery>): Promise<unknown> {
    const all = (await this.#options.jobs.list({ operation: OPERATION, limit: 1_000 }))
      .filter((job) => isVideo(job) && !this.#isDeleted(job.id))
      .map(videoOf);
    if (order === "asc") all.reverse();
    const from = after === undefined ? 0 : all.findIndex(({ id }) => id === after) + 1;
    const data = all.slice(from, from + limit);
    return {
      object: "list",
      data,
      first_id: data[0]?.id ?? null,
      last_id: data.at(-1)?.id ?? null,
      has_more: from + limit < all.length,
    };
  }

  async #job(id: string): Promise<JobView> {
    const missing = new WaverError("not_found", `there is no video ${id}`);
    const job = jobIdOf(id);
    if (this.#isDeleted(job)) throw missing;
    const view = await this.#options.jobs.job(job).catch((error: unknown) => {
      throw error instanceof WaverError && error.code === "not_found" ? missing : error;
    });
    if (!isVideo(view)) throw missing;
    return view;
  }

  #isDeleted(job: JobId): boolean {
    return existsSync(join(this.#deleted, job));
  }
}

function imageOf(reference: string | undefined, uploads: Uploads): string | undefined {
  if (reference === undefined || isAbsolute(reference)) return reference;
  return uploads.picture(reference, "input_reference");
}

/** A generation of one sample; what a list of prompts makes is no video in this API's sense. */
const isVideo = ({ operation, input }: JobView): boolean =>
  operation === OPERATION && typeof input["prompt"] === "string";

const STATUS = {
  queued: "queued",
  running: "in_progress",
  done: "completed",
  failed: "failed",
  cancelled: "failed",
} as const satisfies Record<JobView["state"], Video["status"]>;
/** Denoising is most of the work; decoding is the rest. */
const DENOISED = 90;

function videoOf(job: JobView): Video {
  const { input, state, error } = job;
  const seconds = (text: string | null): number | null => (text === null ? null : Math.floor(Date.parse(text) / 1000));
  const [width, height, length] = [input["width"], input["height"], input["seconds"]];
  const failure = error ?? (state === "cancelled" ? { code: "cancelled", message: "the video was cancelled" } : null);
  return {
    id: videoIdOf(job.id),
    object: "video",
    // the name of a folder, not where it lies
    model: basename(String(input["model"])),
    prompt: String(input["prompt"]),
    status: STATUS[state],
    progress: state === "done" ? 100 : percent(job),
    created_at: seconds(job.createdAt) as number,
    completed_at: state === "done" ? seconds(job.finishedAt) : null,
    expires_at: null,
    seconds: typeof length === "number" ? String(length) : null,
    size: typeof width === "number" && typeof height === "number" ? `${width}x${height}` : null,
    remixed_from_video_id: null,
    error: failure === null ? null : { code: failure.code, message: failure.message },
  };
}

function percent({ progress }: JobView): number {
  if (progress === undefined || progress.total <= 0) return 0;
  const share = Math.min(1, progress.done / progress.total);
  if (progress.stage === "denoise") return Math.floor(DENOISED * share);
  return progress.stage === "decode" ? Math.floor(DENOISED + (100 - DENOISED) * share) : 0;
}

/** Errors that a person can act on, as both sides read them. */
const shaped =
  (handle: (asked: Asked, daemon: Daemon) => Promise<Response>): Route["handle"] =>
  async (asked, daemon) => {
    try {
      return await handle(asked, daemon);
    } catch (error) {
      if (!(error instanceof WaverError)) throw error;
      const body: ErrorBody = error.toBody();
      const type = ERROR_CODES[error.code] < 500 ? "invalid_request_error" : "server_error";
      const theirs = { error: { message: error.message, type, param: null, code: error.code } };
      return errorResponse({ ...body, ...theirs }, error.code === "queue_full" ? { "Retry-After": "5" } : {});
    }
  };

const idOf = ({ params }: Asked): string => parsed(VideoId, params["video"], "id");
const queryOf = <T extends z.ZodObject>(schema: T, { query }: Asked): z.output<T> =>
  parsed(schema, Object.fromEntries(query), "query");

export const VIDEO_ROUTES: readonly Route[] = [
  {
    method: "POST",
    path: "/v1/videos",
    summary:
      "makes a video, in the shape of OpenAI's videos API; a form is taken from those who send the token in a header",
    body: Create,
    multipart: true,
    answer: Video,
    handle: shaped(async ({ body, request }, { videos }) => {
      const key = request.headers.get("idempotency-key");
      const checked = key === null ? null : parsed(IdempotencyKey, key, "Idempotency-Key");
      return Response.json(await videos.create(body, checked));
    }),
  },
  {
    method: "GET",
    path: "/v1/videos",
    summary: "videos, newest first",
    query: ListQuery,
    answer: z.object({
      object: z.literal("list"),
      data: z.array(Video),
      first_id: VideoId.nullable(),
      last_id: VideoId.nullable(),
      has_more: z.boolean(),
    }),
    handle: shaped(async (asked, { videos }) => Response.json(await videos.list(queryOf(ListQuery, asked)))),
  },
  {
    method: "GET",
    path: "/v1/videos/:video",
    summary: "one video: its status and progress",
    answer: Video,
    handle: shaped(async (asked, { videos }) => Response.json(await videos.get(idOf(asked)))),
  },
  {
    method: "GET",
    path: "/v1/videos/:video/content",
    summary: "the MP4 of a completed video, whole or by range",
    query: ContentQuery,
    media: "video/mp4",
    handle: shaped(async (asked, { videos }) => {
      queryOf(ContentQuery, asked);
      return videos.content(idOf(asked), asked.request.headers.get("range"));
    }),
  },
  {
    method: "DELETE",
    path: "/v1/videos/:video",
    summary: "ends a video that is being made and forgets it here; its job and its artefact stay for lineage",
    answer: z.object({ id: VideoId, object: z.literal("video.deleted"), deleted: z.literal(true) }),
    handle: shaped(async (asked, { videos }) => {
      const id = idOf(asked);
      await videos.delete(id);
      return Response.json({ id, object: "video.deleted", deleted: true });
    }),
  },
];
