/** One question to an OpenAI-compatible chat endpoint: asked again when it may help, its answer remembered. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";

export interface Endpoint {
  readonly url: string;
  readonly model: string;
  readonly key?: string | undefined;
}

export interface AskOptions {
  readonly timeout: number;
  readonly retries: number;
  /** Folder of answers; the job's own when absent. */
  readonly cache?: string | undefined;
}

/** Bytes of an answer that are read: captions are a few hundred words. */
const MAX_ANSWER = 1 << 20;

const Answer = z.object({
  choices: z.array(z.object({ message: z.object({ content: z.string().nullable() }) })).min(1),
});

/** The endpoint that is configured; `use` says what for. */
export function configured(endpoint: Endpoint | undefined, use: string): Endpoint {
  if (endpoint !== undefined) return endpoint;
  throw new WaverError("needs_unmet", `no endpoint for ${use} is configured`, {
    hint: "set WAVER_ENDPOINT_URL and WAVER_ENDPOINT_MODEL, or `endpoint` in the configuration file",
  });
}

/** The answer to a request body: the one that is kept for it, or a new one. */
export async function answerTo(endpoint: Endpoint, body: string, options: AskOptions, ctx: Context): Promise<string> {
  const cache = options.cache ?? join(ctx.workDir, "answers");
  const path = join(cache, `${new Bun.CryptoHasher("sha256").update(endpoint.url).update(body).digest("hex")}.json`);
  const known = await readFile(path, "utf8").then(
    (text) => z.string().safeParse(JSON.parse(text)).data,
    () => undefined,
  );
  if (known !== undefined) return known;
  const text = await ask(endpoint, body, options, ctx);
  await remember(cache, path, text);
  return text;
}

async function remember(folder: string, path: string, text: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const temporary = `${path}.${crypto.randomUUID()}.tmp`;
  await writeFile(temporary, JSON.stringify(text));
  await rename(temporary, path);
}

async function ask(endpoint: Endpoint, body: string, options: AskOptions, ctx: Context): Promise<string> {
  for (let attempt = 0; ; attempt++) {
    const outcome = await once(endpoint, body, options, ctx.signal);
    if ("text" in outcome) return outcome.text;
    if (outcome.final || attempt >= options.retries) {
      throw new WaverError("plugin_failed", `the endpoint ${outcome.why}`, {
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
