import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { provide, type WaverError } from "../../plugins/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { evaluate } from "./evaluate.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-evaluate-op-"));
const item = { id: "one", video: "one.bin", prompt: "a ball", task: "t2v" };
beforeAll(() => {
  writeFileSync(join(folder, "one.bin"), "hello");
  writeFileSync(join(folder, "two.bin"), "other");
  writeFileSync(
    join(folder, "set.json"),
    JSON.stringify({ items: [item], references: [{ id: "r", video: "two.bin", caption: "a boat" }] }),
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const counter = provide("evaluate", {
  id: "bytes",
  summary: "size of the file",
  runs: "worker",
  options: z.strictObject({ times: z.number().default(1) }),
  traits: { measures: ["bytes"] },
  async run({ items }, { options }) {
    const sizes = Object.fromEntries(
      items.map(({ id, video }) => [id, { bytes: readFileSync(video).length * options.times }]),
    );
    return { summary: { bytes: 1 }, items: sizes, notes: {} };
  },
});
const run = async (input: Record<string, unknown>) => {
  await using ctx = await testContext({ plugins: [], provide: [counter], home: join(folder, "home") });
  const output = evaluate.output.parse(
    await runOperation(evaluate, { evaluators: [{ id: "bytes", times: 2 }], ...input }, ctx),
  );
  return {
    output,
    record: await ctx.store.lineage(output.evaluation),
    stored: JSON.parse(readFileSync(output.path, "utf8")) as { results: unknown },
  };
};

test("every evaluator's findings are published with what they stand on", async () => {
  const { output, record, stored } = await run({ set: join(folder, "set.json") });
  expect(output.results["bytes"]?.items).toEqual({ one: { bytes: 10 } });
  expect(stored.results).toEqual(output.results);
  // Digest of "hello", as the store names that file.
  expect(record?.inputs).toEqual([
    { role: "video", digest: "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" },
  ] as never);
  expect(record?.kind).toBe("evaluation");
});

test("items may be given without a file", async () => {
  const { output } = await run({ items: [{ ...item, video: join(folder, "two.bin") }] });
  expect(output.results["bytes"]?.items).toEqual({ one: { bytes: 10 } });
});

test("what it reads is known before it runs", () => {
  const reads = evaluate.reads as (input: unknown) => readonly string[];
  expect(reads({ set: join(folder, "set.json") })).toEqual(
    ["set.json", "one.bin", "two.bin"].map((name) => join(folder, name)),
  );
  expect(reads({ set: join(folder, "none.json") })).toEqual([join(folder, "none.json")]);
});

test("wrong requests end in a sentence", async () => {
  writeFileSync(join(folder, "bad.json"), '{"items": 3}');
  const failures = await Promise.all(
    [
      {},
      { set: join(folder, "none.json") },
      { set: join(folder, "bad.json") },
      { items: [] },
      { items: [item, item] },
      { items: [item], evaluators: [{ id: "bytes" }, { id: "bytes" }] },
    ].map((input) =>
      run(input).then(
        () => "nothing",
        (error: WaverError) => error.code,
      ),
    ),
  );
  expect(failures).toEqual([
    "invalid_input",
    "not_found",
    "invalid_input",
    "invalid_input",
    "invalid_input",
    expect.any(String),
  ]);
});
