/** The features of a job: those that were picked, else the richest there are; when a network cannot be had here, the next. */
import { z } from "zod";
import {
  type Context,
  type FrameBatch,
  type FrameView,
  type In,
  type Pick,
  toWaverError,
  type WaverError,
} from "../../../plugins/index.ts";

export interface Embedder {
  readonly id: string;
  readonly view: FrameView;
  readonly run: (input: In<"embed">) => Promise<Float32Array>;
}

export async function openEmbedder(pick: Pick | undefined, ctx: Context): Promise<Embedder | null> {
  const known = ctx.providers("embed");
  // More features tell more apart: learned networks come before a thumbnail's print. One that must be told of weights waits to be picked.
  const richest = known
    .filter(({ traits }) => traits.dim !== null)
    .toSorted((a, b) => (b.traits.dim ?? 0) - (a.traits.dim ?? 0))
    .map(({ id }) => id);
  const candidates = pick === undefined ? richest : [pick.id, ...richest.filter((id) => id !== pick.id).reverse()];
  const optionsOf = (id: string): Readonly<Record<string, unknown>> => {
    if (id !== pick?.id) return {};
    const { id: _, ...options } = pick;
    return options;
  };
  // Decided once a job: features of two providers cannot be compared, so a resumed job must not change its mind.
  const { chosen } = await ctx.unit(
    `embedder ${JSON.stringify(pick ?? null)}`,
    z.object({ chosen: z.string().nullable() }),
    async () => {
      for (const id of candidates) {
        const reason = await refusal(id, optionsOf(id), ctx);
        if (reason === null) return { chosen: id };
        ctx.log("embedder_refused", { embedder: id, code: reason.code, message: reason.message });
      }
      return { chosen: null };
    },
  );
  const provider = known.find((each) => each.id === chosen);
  if (provider === undefined) return null;
  const { id, traits } = provider;
  return { id, view: traits.view, run: await ctx.use("embed", id, optionsOf(id)) };
}

/** Why a provider cannot work here, or null. A provider elsewhere is loaded by its first call, so it is called. */
async function refusal(
  id: string,
  options: Readonly<Record<string, unknown>>,
  ctx: Context,
): Promise<WaverError | null> {
  const view = ctx.providers("embed").find((each) => each.id === id)?.traits.view;
  try {
    if (view === undefined) return toWaverError(new Error(`no provider of embed is called ${id}`));
    using run = await ctx.use("embed", id, options);
    await run(blank(view));
    return null;
  } catch (cause) {
    const error = toWaverError(cause);
    if (["cancelled", "invalid_input"].includes(error.code)) throw error;
    // A call that got as far as asking for the clip's file has a provider that works.
    return error.code.startsWith("media_") ? null : error;
  }
}

/** A grey frame of a clip that is nowhere. */
function blank(view: FrameView): In<"embed"> {
  const id = `sha256:${"0".repeat(64)}` as In<"embed">["clip"]["id"];
  const channels = view.format === "rgb24" ? 3 : 1;
  async function* frames(): AsyncGenerator<FrameBatch> {
    yield {
      data: new Uint8Array(view.width * view.height * channels).fill(128),
      count: 1,
      width: view.width,
      height: view.height,
      format: view.format,
      times: [0],
    };
  }
  const source = {
    id,
    path: "/nowhere/grey.mp4",
    tag: "none",
    width: view.width,
    height: view.height,
    fps: 1,
    numFrames: 1,
    duration: 1,
    bitrate: 0,
    codec: "none",
  };
  return { clip: { id, source: id, start: 0, end: 1 }, source, frames: frames() };
}
