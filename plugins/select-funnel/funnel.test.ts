import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ClipRow, readTable, writeTable } from "../table.ts";
import type { Digest } from "../types.ts";
import { funnel, marks } from "./funnel.ts";
import { Recipe } from "./recipe.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-funnel-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const digest = (n: number): Digest => `sha256:${n.toString(16).padStart(64, "0")}` as Digest;

const row = (n: number, scores: Record<string, number>, more: Partial<ClipRow> = {}): ClipRow => ({
  id: digest(n),
  source: digest(n),
  path: `/v/${n}.mp4`,
  tag: "t",
  start: 0,
  end: 2,
  width: 64,
  height: 64,
  fps: 25,
  caption: "a red ball",
  captionBy: "x",
  actions: null,
  embeddedBy: null,
  embedding: null,
  dropped: null,
  reason: null,
  stage: null,
  repeat: 1,
  scores,
  ...more,
});

const recipe = Recipe.parse({
  name: "two",
  stages: [
    {
      id: "low",
      rules: [
        { id: "static", measure: "m.motion", min: 1, why: "still clips teach nothing" },
        { id: "words", measure: "caption.words", min: 2, why: "it needs a caption" },
      ],
    },
    {
      id: "high",
      rules: [
        { id: "size", measure: "b.side", min: 480, missing: "drop", why: "it must be 480p" },
        { id: "text", measure: "ocr.area", max: 0.1, why: "no writing" },
      ],
    },
  ],
});

describe("funnel", () => {
  const rows = [
    row(1, { "m.motion": 0.12345, "b.side": 720 }),
    row(2, { "m.motion": 3, "b.side": 240 }),
    row(3, { "m.motion": 3, "b.side": 720 }),
    row(4, { "m.motion": 3 }),
    row(5, { "m.motion": 3, "b.side": 720 }, { caption: "ball" }),
    row(6, { "m.motion": 3, "b.side": 720 }, { dropped: "dedup/near", reason: "copy" }),
  ];

  test("the first failed rule is named with its figures, and the furthest stage is kept", () => {
    const out = marks(recipe, 1, rows);
    expect(out.map((each) => each.dropped)).toEqual([
      "low/static",
      "high/size",
      null,
      "high/size",
      "low/words",
      "dedup/near",
    ]);
    expect(out.map((each) => each.stage)).toEqual([null, "low", "high", "low", null, null]);
    expect(out[0]?.reason).toBe("m.motion is 0.123, under 1: still clips teach nothing");
    expect(out[3]?.reason).toBe("b.side is not known: it must be 480p");
  });

  test("a set for an early stage is not held to the later ones, but their reach is known", () => {
    const out = marks(recipe, 0, rows);
    expect(out.map((each) => each.dropped)).toEqual(["low/static", null, null, null, "low/words", "dedup/near"]);
    expect(out[1]?.stage).toBe("low");
  });

  test("balance caps a group and keeps its best", () => {
    const balanced = Recipe.parse({
      name: "b",
      stages: [
        { id: "ct", rules: [{ id: "sources", balance: "tag", maxShare: 0.5, prefer: "q", why: "no source may rule" }] },
      ],
    });
    const many = Array.from({ length: 10 }, (_, n) => row(n, { q: n }, { tag: n < 8 ? "stock" : "own" }));
    const out = marks(balanced, 0, many);
    expect(out.filter((each) => each.dropped !== null).map((each) => each.scores["q"])).toEqual([0, 1, 2]);
    expect(out[0]?.reason).toContain("8 of 10");
    expect(marks(balanced, 0, many.slice(0, 8)).every((each) => each.dropped === null)).toBe(true);
  });

  test("through files: rules without a measure are said, an unknown stage is refused", async () => {
    const logged: string[] = [];
    const ctx = {
      workDir: folder,
      log: (event: string, fields?: Readonly<Record<string, unknown>>) =>
        void logged.push(`${event} ${fields?.["rule"]}`),
    };
    const relation = await writeTable(join(folder, "in.parquet"), rows);
    const out = await readTable(await funnel(relation, { recipe }, ctx));
    expect(out).toHaveLength(6);
    expect(logged).toEqual(["rule_not_measured high/text"]);
    expect(
      await funnel(relation, { recipe, stage: "none" }, ctx).then(
        () => "",
        (error) => error.code,
      ),
    ).toBe("invalid_input");
  });

  test("recipes with two equal ids are refused", () => {
    const twice = { id: "a", rules: [] };
    expect(Recipe.safeParse({ name: "x", stages: [twice, twice] }).success).toBe(false);
  });
});
