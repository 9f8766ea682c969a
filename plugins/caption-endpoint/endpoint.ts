/** One question to a chat endpoint about a clip's frames: sent as JPEG, asked again when it may help, remembered. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import { spreadFrames } from "../frames.ts";
import type { Caption, ClipFrames, FrameBatch } from "../types.ts";

export interface Endpoint {
  readonly url: string;
  readonly model: string;
  readonly key?: string | undefined;
}

export interface AskOptions {
  readonly instruction: string;
  readonly maxFrames: number;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly timeout: number;
  readonly retries: number;
  readonly cache?: string | undefined;
}

/** Bytes of an answer that are read: captions are a few hundred words. */
const MAX_ANSWER = 1 << 20;

const Answer = z.object({
  choices: z.array(z.object({ message: z.object({ content: z.string().nullable() }) })).min(1),
});

export async function captionFrom(
  input: ClipFrames,
  endpoint: Endpoint | undefined,
  options: AskOptions,
  ctx: Context,
): Promise<Caption | null> {
  if (endpoint === undefined) {
    throw new WaverError("needs_unmet", "no endpoint for captions is configured", {
      hint: "set WAVER_ENDPOINT_URL and WAVER_ENDPOINT_MODEL, or `endpoint` in the configuration file",
    });
  }
  const frames = await spreadFrames(input.frames, options.maxFrames);
  if (frames.length === 0) throw new WaverError("media_too_short", "a clip without frames cannot be captioned");
  const images = await Promise.all(frames.map(jpeg));
  const body = bodyOf(images, endpoint, options, input.clip.end - input.clip.start);
  const cache = options.cache ?? join(ctx.workDir, "captions");
  const key = join(cache, `${new Bun.CryptoHasher("sha256").update(endpoint.url).update(body).digest("hex")}.json`);
  const known = await readFile(key, "utf8").then(
    (text) => z.string().safeParse(JSON.parse(text)).data,
    () => undefined,
  );
  const text = known ?? (await ask(endpoint, body, options, ctx));
  if (known === undefined) await remember(cache, key, text);
  return text === "" ? null : { text, by: endpoint.model };
}

async function remember(folder: string, path: string, text: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const temporary = `${path}.${crypto.randomUUID()}.tmp`;
  await writeFile(temporary, JSON.stringify(text));
  await rename(temporary, path);
}

async function jpeg(frame: FrameBatch): Promise<string> {
  const { default: sharp } = await import("sharp");
  const raw = { width: frame.width, height: frame.height, channels: frame.format === "rgb24" ? 3 : 1 } as const;
  return (await sharp(frame.data, { raw }).jpeg({ quality: 85 }).toBuffer()).toString("base64");
}

function bodyOf(
  images: readonly string[],
  { model }: Endpoint,
  { instruction, maxTokens, temperature }: AskOptions,
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

async function ask(endpoint: Endpoint, body: string, options: AskOptions, ctx: Context): Promise<string> {
  for (let attempt = 0; ; attempt++) {
    const outcome = await once(endpoint, body, options, ctx.signal);
    if ("text" in outcome) return outcome.text;
    if (outcome.final || attempt >= options.retries) {
      throw new WaverError("plugin_failed", `the caption endpoint ${outcome.why}`, {
        hint: "check the endpoint's address, model and key, and that it is running",
      });
    }
    // 1, 2, 4, ... seconds, spread so that several workers do not come back together; a server's own word counts.
    const wait = outcome.after ?? 2 ** attempt * (0.75 + Math.random() / 2);
    ctx.log("endpoint_retry", { why: outcome.why, attempt: attempt + 1, seconds: wait });
    await sleep(Math.min(wait, 60), ctx.signal);
  }
}

type Outcome = { readonly text: string } | { readonly why: string; readonly final: boolean; readonly after?: number };

async function once(endpoint: Endpoint, body: string, options: AskOptions, signal: AbortSignal): Promise<Outcome> {
  const timeout = AbortSignal.timeout(options.timeout * 1000);
  try {
    const response = await fetch(`${endpoint.url.replace(/\/+$/, "")}/chat/completions`, {
      method: "POST",
      body,
      headers: {
        "content-type": "application/json",
        ...(endpoint.key === undefined ? {} : { authorization: `Bearer ${endpoint.key}` }),
      },
      signal: AbortSignal.any([signal, timeout]),
      // The key goes to the configured host and nowhere else.
      redirect: "error",
    });
    if (response.ok) return textOf(await bounded(response));
    await response.body?.cancel();
    const after = Number(response.headers.get("retry-after") ?? Number.NaN);
    const busy = response.status === 429 || response.status === 408 || response.status >= 500;
    return { why: `answered with status ${response.status}`, final: !busy, ...(after > 0 ? { after } : {}) };
  } catch (error) {
    if (signal.aborted) throw new WaverError("cancelled", "the job was cancelled");
    if (error instanceof WaverError) return { why: error.message, final: true };
    return { why: timeout.aborted ? `gave no answer within ${options.timeout} s` : "cannot be reached", final: false };
  }
}

async function bounded(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body as unknown as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > MAX_ANSWER) throw new WaverError("plugin_failed", "gave an answer that is too long");
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

/** Text of the answer; thoughts that some models put before it are no caption. */
function textOf(answer: string): Outcome {
  let value: unknown;
  try {
    value = JSON.parse(answer);
  } catch {
    return { why: "gave an answer that is not JSON", final: true };
  }
  const parsed = Answer.safeParse(value);
  if (!parsed.success) return { why: "gave an answer of another shape", final: true };
  const text = parsed.data.choices[0]?.message.content ?? "";
  return {
    text: text
      .replace(/^[\s\S]*<\/think>/, "")
      .replace(/\s+/g, " ")
      .trim(),
  };
}

function sleep(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new WaverError("cancelled", "the job was cancelled"));
    };
    if (signal.aborted) return stop();
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}
