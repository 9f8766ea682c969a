/** The features of a job: those that were picked, or, when their network cannot be had here, the smallest there are. */
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
  if (pick === undefined) {
    const smallest = known.toSorted((a, b) => a.traits.dim - b.traits.dim)[0];
    return smallest === undefined ? null : openEmbedder({ id: smallest.id }, ctx);
  }
  const { id, ...options } = pick;
  // Decided once a job: features of two providers cannot be compared, so a resumed job must not change its mind.
  const { chosen } = await ctx.unit(
    `embedder ${JSON.stringify(pick)}`,
    z.object({ chosen: z.string().nullable() }),
    async () => {
      const reason = await refusal(id, options, ctx);
      if (reason === null) return { chosen: id };
      const smallest = known.filter((each) => each.id !== id).toSorted((a, b) => a.traits.dim - b.traits.dim)[0];
      ctx.log("embed_fallback", {
        picked: id,
        chosen: smallest?.id ?? null,
        code: reason.code,
        message: reason.message,
      });
      return { chosen: smallest?.id ?? null };
    },
  );
  const provider = known.find((each) => each.id === chosen);
  if (provider === undefined) return null;
  return {
    id: provider.id,
    view: provider.traits.view,
    run: await ctx.use("embed", provider.id, provider.id === id ? options : {}),
  };
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
