import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Context } from "../define.ts";
import { rewrittenBy } from "./rewrite.ts";

interface Question {
  readonly model: string;
  readonly temperature: number;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
}
let asked: Question[] = [];
let answer = "";
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    asked.push((await request.json()) as Question);
    return Response.json({ choices: [{ message: { content: answer } }] });
  },
});
const folder = mkdtempSync(join(tmpdir(), "waver-rewrite-"));
afterAll(async () => {
  await server.stop(true);
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  asked = [];
});
const endpoint = { url: `http://127.0.0.1:${server.port}/v1`, model: "writer" };
const ctx = { signal: new AbortController().signal, workDir: folder, log: () => undefined } as unknown as Context;
const options = (name: string) => ({
  maxTokens: 100,
  temperature: 0.7,
  timeout: 5,
  retries: 0,
  cache: join(folder, name),
});

test("5 and 10 seconds have instructions and examples of their own; negative prompt and length stay", async () => {
  answer = '<think>short</think>Rewritten prompt: "A wide shot\nof a boat."';
  const five = await rewrittenBy({ text: "a boat", negative: "text", seconds: 5 }, endpoint, options("a"), ctx);
  expect(five).toEqual({ text: "A wide shot of a boat.", negative: "text", seconds: 5 });
  await rewrittenBy({ text: "a boat", negative: "", seconds: 10 }, endpoint, options("a"), ctx);
  const [short, long] = asked as [Question, Question];
  expect([short.model, short.temperature]).toEqual(["writer", 0.7]);
  expect(short.messages[0]?.content).toContain("about 5 seconds");
  expect(long.messages[0]?.content).toContain("about 10 seconds");
  for (const { messages } of [short, long]) {
    expect(messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user", "assistant", "user"]);
    expect(messages.at(-1)?.content).toBe("a boat");
  }
  expect(short.messages[2]).not.toEqual(long.messages[2] as never);
});

test("the same question is asked once; an empty answer leaves the prompt as it was", async () => {
  answer = "A boat on a lake.";
  const prompt = { text: "a boat", negative: "" };
  for (let i = 0; i < 2; i++) expect((await rewrittenBy(prompt, endpoint, options("b"), ctx)).text).toBe(answer);
  expect(asked).toHaveLength(1);
  answer = "  ";
  expect((await rewrittenBy({ text: "a tree", negative: "" }, endpoint, options("b"), ctx)).text).toBe("a tree");
});

test("an instruction of one's own takes the place of both", async () => {
  answer = "x";
  const instruction = "Translate into French.";
  await rewrittenBy({ text: "a boat", negative: "" }, endpoint, { ...options("c"), instruction }, ctx);
  expect(asked[0]?.messages).toEqual([
    { role: "system", content: instruction },
    { role: "user", content: "a boat" },
  ]);
});

test("without an endpoint it says what to set", async () => {
  const refused = rewrittenBy({ text: "a boat", negative: "" }, undefined, options("d"), ctx);
  await expect(refused).rejects.toMatchObject({
    code: "needs_unmet",
    hint: expect.stringContaining("WAVER_ENDPOINT_URL"),
  });
});
