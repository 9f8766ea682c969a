/** A clip's frames, sent as JPEG with a question. */
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import { spreadFrames } from "../frames.ts";
import type { Caption, ClipFrames, FrameBatch } from "../types.ts";
import { type AskOptions, answerTo, configured, type Endpoint } from "./chat.ts";

export interface CaptionOptions extends AskOptions {
  readonly instruction: string;
  readonly maxFrames: number;
  readonly maxTokens: number;
  readonly temperature: number;
}

export async function captionFrom(
  input: ClipFrames,
  endpoint: Endpoint | undefined,
  options: CaptionOptions,
  ctx: Context,
): Promise<Caption | null> {
  const known = configured(endpoint, "captions");
  const frames = await spreadFrames(input.frames, options.maxFrames);
  if (frames.length === 0) throw new WaverError("media_too_short", "a clip without frames cannot be captioned");
  const images = await Promise.all(frames.map(jpeg));
  const text = await answerTo(known, bodyOf(images, known, options, input.clip.end - input.clip.start), options, ctx);
  return text === "" ? null : { text, by: known.model };
}

async function jpeg(frame: FrameBatch): Promise<string> {
  const { default: sharp } = await import("sharp");
  const raw = { width: frame.width, height: frame.height, channels: frame.format === "rgb24" ? 3 : 1 } as const;
  return (await sharp(frame.data, { raw }).jpeg({ quality: 85 }).toBuffer()).toString("base64");
}

function bodyOf(
  images: readonly string[],
  { model }: Endpoint,
  { instruction, maxTokens, temperature }: CaptionOptions,
  seconds: number,
): string {
  const text = `${instruction}\nThe ${images.length} images are frames of a clip of ${seconds.toFixed(1)} seconds, in order.`;
  const pictures = images.map((data) => ({ type: "image_url", image_url: { url: `data:image/jpeg;base64,${data}` } }));
  return JSON.stringify({
    model,
    max_tokens: maxTokens,
    temperature,
    messages: [{ role: "user", content: [{ type: "text", text }, ...pictures] }],
  });
}
