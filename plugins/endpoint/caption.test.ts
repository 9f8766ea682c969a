import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Context } from "../define.ts";
import type { WaverError } from "../errors.ts";
import type { ClipFrames, Digest, FrameBatch } from "../types.ts";
import { type CaptionOptions, captionFrom } from "./caption.ts";

interface Question {
  readonly model: string;
  readonly messages: { content: { type: string; text?: string; image_url?: { url: string } }[] }[];
}

let answers: ((request: Question) => Response | Promise<Response>)[] = [];
let asked: { question: Question; key: string | null }[] = [];
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    const question = (await request.json()) as Question;
    asked.push({ question, key: request.headers.get("authorization") });
    return (answers.shift() ?? (() => new Response("none left", { status: 500 })))(question);
  },
});
const folder = mkdtempSync(join(tmpdir(), "waver-endpoint-"));
afterAll(async () => {
  await server.stop(true);
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  answers = [];
  asked = [];
});

const endpoint = { url: `http://127.0.0.1:${server.port}/v1/`, model: "seer", key: "secret" };
const options = (name: string, more: Partial<CaptionOptions> = {}): CaptionOptions => ({
  instruction: "Describe.",
  maxFrames: 3,
  maxTokens: 10,
  temperature: 0,
  timeout: 5,
  retries: 2,
  cache: join(folder, name),
  ...more,
});
const say =
  (content: string): (() => Response) =>
  () =>
    Response.json({ choices: [{ message: { content } }] });
const busy = (): Response => new Response("busy", { status: 429, headers: { "retry-after": "0.01" } });

function context(signal = new AbortController().signal): Context {
  return { signal, workDir: folder, log: () => undefined } as unknown as Context;
}

function input(numFrames = 8): ClipFrames {
  const id = `sha256:${"a".repeat(64)}` as Digest;
  async function* frames(): AsyncGenerator<FrameBatch> {
    for (let i = 0; i < numFrames; i++)
      yield {
        data: new Uint8Array(16 * 16 * 3).fill(i * 20),
        count: 1,
        width: 16,
        height: 16,
        format: "rgb24",
        times: [i / 2],
      };
  }
  return {
    clip: { id, source: id, start: 0, end: 4 },
    source: {
      id,
      path: "/x.mp4",
      tag: "x",
      width: 16,
      height: 16,
      fps: 25,
      numFrames: 100,
      duration: 4,
      bitrate: 1,
      codec: "h264",
    },
    frames: frames(),
  };
}

const code = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "none",
    (error: WaverError) => error.code,
  );

describe("endpoint captions", () => {
  test("frames go out as JPEG in order, the answer comes back cleaned, by the model's name", async () => {
    answers = [say("<think>hm</think>\n A red ball\n rolls. ")];
    expect(await captionFrom(input(), endpoint, options("a"), context())).toEqual({
      text: "A red ball rolls.",
      by: "seer",
    });
    const { question, key } = asked[0]!;
    expect(key).toBe("Bearer secret");
    expect(question.model).toBe("seer");
    const content = question.messages[0]!.content;
    expect(content.map((part) => part.type)).toEqual(["text", "image_url", "image_url", "image_url"]);
    expect(Buffer.from(content[1]!.image_url!.url.split(",")[1]!, "base64").subarray(0, 2).toString("hex")).toBe(
      "ffd8",
    );
  });

  test("the same question is asked once", async () => {
    answers = [say("one")];
    await captionFrom(input(), endpoint, options("b"), context());
    expect((await captionFrom(input(), endpoint, options("b"), context()))?.text).toBe("one");
    expect(asked).toHaveLength(1);
  });

  test("a busy server is asked again, and no longer than retries say", async () => {
    answers = [busy, busy, say("at last")];
    expect((await captionFrom(input(), endpoint, options("c"), context()))?.text).toBe("at last");
    answers = [busy, busy, busy, say("too late")];
    expect(await code(captionFrom(input(), endpoint, options("d"), context()))).toBe("plugin_failed");
    expect(asked).toHaveLength(6);
  });

  test("a refusal, nonsense and a redirect are final", async () => {
    for (const answer of [
      () => new Response("no", { status: 401 }),
      () => new Response("<html>"),
      () => Response.json({ hello: 1 }),
    ]) {
      asked = [];
      answers = [answer, say("never")];
      expect(await code(captionFrom(input(), endpoint, options("e"), context()))).toBe("plugin_failed");
      expect(asked).toHaveLength(1);
    }
    answers = [() => Response.redirect("http://127.0.0.1:1/elsewhere", 307)];
    expect(await code(captionFrom(input(), endpoint, options("f", { retries: 0 }), context()))).toBe("plugin_failed");
  });

  test("no endpoint, a hanging one and a cancel are told apart", async () => {
    expect(await code(captionFrom(input(), undefined, options("g"), context()))).toBe("needs_unmet");
    const hang = (): Promise<Response> =>
      new Promise((resolve) => setTimeout(() => resolve(new Response("late")), 2000));
    answers = [hang];
    expect(await code(captionFrom(input(), endpoint, options("h", { timeout: 0.1, retries: 0 }), context()))).toBe(
      "plugin_failed",
    );
    const abort = new AbortController();
    answers = [hang];
    setTimeout(() => abort.abort(), 100);
    expect(await code(captionFrom(input(), endpoint, options("i"), context(abort.signal)))).toBe("cancelled");
  });

  test("an empty answer is no caption", async () => {
    answers = [say("  ")];
    expect(await captionFrom(input(), endpoint, options("j"), context())).toBeNull();
  });
});
