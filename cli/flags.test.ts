import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { type OperationDoc, type ProviderDoc, WIRE_VERSION } from "../daemon/wire.ts";
import { WaverError } from "../plugins/errors.ts";
import { bodyOf, type Token } from "./body.ts";
import { WIRE } from "./docs.ts";
import { argsOf, flagsOf, kebab, shapeOf } from "./flags.ts";

const input = z.strictObject({
  prompt: z.string(),
  numSteps: z.int().min(1).max(1000).default(30).meta({ description: "steps of the sampler" }),
  shift: z.number().positive().optional(),
  sample: z.boolean().default(true),
  task: z.enum(["t2v", "i2v"]).default("t2v"),
  seeds: z.array(z.int()).default([0]),
  image: z.string().optional().meta({ format: "path" }),
  size: z.tuple([z.int(), z.int()]).optional(),
  model: z.string().optional(),
  limits: z
    .strictObject({ low: z.number().optional(), deep: z.strictObject({ word: z.string().optional() }).optional() })
    .optional(),
  rate: z.union([z.number(), z.literal("native")]).optional(),
  rows: z.array(z.strictObject({ id: z.string() })).optional(),
  words: z.union([z.string(), z.array(z.string())]).optional(),
  maybe: z.number().nullable().optional(),
  split: z
    .union([z.enum(["even", "odd"]), z.strictObject({ by: z.int().default(1) })])
    .optional()
    .meta({ description: "how it is split" }),
});
const json = (schema: z.ZodType): Record<string, unknown> =>
  z.toJSONSchema(schema, { io: "input" }) as Record<string, unknown>;
const operation: OperationDoc = {
  name: "make",
  kind: "job",
  summary: "makes",
  plugin: null,
  input: json(input),
  output: {},
  examples: [],
  slots: {
    guide: { hook: "guide", summary: "how it is guided", many: false, optional: false, default: { id: "plain" } },
    score: { hook: "score", summary: "what is measured", many: true, optional: true },
  },
};
const provider = (hook: string, id: string, options: z.ZodType): ProviderDoc => ({
  hook,
  id,
  plugin: "p",
  summary: "s",
  runs: "worker",
  traits: {},
  options: json(options),
});
const providers = [
  provider("guide", "plain", z.object({ scale: z.number().default(5) })),
  provider(
    "guide",
    "video-apg",
    z.object({
      scale: z.number().default(8),
      normThreshold: z.number().default(27),
      zeroInit: z.boolean().default(false),
    }),
  ),
  provider("score", "sharp", z.object({ every: z.int().default(1) })),
  provider("score", "motion", z.object({ every: z.int().default(1), from: z.array(z.string()).optional() })),
];
const shape = shapeOf(operation, providers);
const cwd = mkdtempSync(join(tmpdir(), "waver-flags-"));

/** `--a 1 b --no-c` as oclif's parser hands it over. */
function tokens(...words: string[]): Token[] {
  const found: Token[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as string;
    if (!word.startsWith("--")) found.push({ type: "arg", arg: "prompt", input: word });
    else if (word.startsWith("--no-") || ["--sample", "--guide.zero-init"].includes(word))
      found.push({ type: "flag", flag: word.replace(/^--(no-)?/, ""), input: word });
    else found.push({ type: "flag", flag: word.slice(2), input: words[++i] as string });
  }
  return found;
}
const body = (...words: string[]): Record<string, unknown> =>
  bodyOf(shape, { tokens: tokens("a ball", ...words), base: {}, cwd });
const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return error instanceof WaverError ? `${error.code}: ${error.message}` : String(error);
  }
  return "nothing";
};

describe("a schema's flags", () => {
  test("have one for every field, slot and option, in kebab case", () => {
    const flags = flagsOf(shape, operation);
    expect(Object.keys(flags)).toEqual(
      expect.arrayContaining([
        "num-steps",
        "guide",
        "guide.scale",
        "guide.norm-threshold",
        "score.every",
        "limits.low",
        "limits.deep.word",
        "prompt",
      ]),
    );
    expect(flags["sample"]).toMatchObject({ type: "boolean", allowNo: true });
    expect(flags["seeds"]).toMatchObject({ multiple: true, multipleNonGreedy: true });
    expect(flags["num-steps"]?.description).toBe("steps of the sampler (1 to 1000) [default: 30]");
    expect(flags["guide"]?.description).toBe("how it is guided; one of plain, video-apg [default: plain]");
    expect(kebab("numSteps2D")).toBe("num-steps2-d");
  });

  test("a group that goes by a word takes the word, its parts or JSON, and not two of them", () => {
    const flags = flagsOf(shape, operation);
    expect(flags["split"]).toMatchObject({ hidden: false, description: "how it is split; one of even, odd" });
    expect(flags["limits"]).toMatchObject({ hidden: true });
    expect(body("--split", "odd")["split"]).toBe("odd");
    expect(body("--split.by", "3")["split"]).toEqual({ by: 3 });
    expect(body("--split", '{"by":4}', "--split.by", "3")["split"]).toEqual({ by: 3 });
    expect(codeOf(() => body("--split", "both"))).toBe(
      'invalid_input: --split is one of even, odd, or JSON, not "both"',
    );
    const both = "a group is said by a word or part by part, not both";
    expect(codeOf(() => body("--split", "odd", "--split.by", "3"))).toBe(`invalid_input: --split.by: ${both}`);
    expect(codeOf(() => body("--split.by", "3", "--split", "odd"))).toBe(`invalid_input: --split: ${both}`);
    const base = { split: { by: 5 } };
    expect(bodyOf(shape, { tokens: tokens("a ball", "--split", "odd"), base, cwd })["split"]).toBe("odd");
  });

  test("the obvious field is an argument", () => {
    expect(Object.keys(argsOf(shape))).toEqual(["prompt"]);
    const said = shapeOf(
      {
        ...operation,
        input: json(
          input.extend({ second: z.string().meta({ positional: 1 }), first: z.string().meta({ positional: 0 }) }),
        ),
      },
      [],
    );
    expect(Object.keys(argsOf(said))).toEqual(["first", "second"]);
  });

  test("the wire version is the daemon's", () => expect(WIRE).toBe(WIRE_VERSION));
});

describe("what was typed", () => {
  test("becomes a body of the right types", () => {
    expect(
      body(
        "--num-steps",
        "12",
        "--shift",
        "0.5",
        "--no-sample",
        "--task",
        "i2v",
        "--seeds",
        "1,2",
        "--seeds",
        "3",
        "--size",
        "480,832",
        "--rate",
        "native",
      ),
    ).toEqual({
      prompt: "a ball",
      numSteps: 12,
      shift: 0.5,
      sample: false,
      task: "i2v",
      seeds: [1, 2, 3],
      size: [480, 832],
      rate: "native",
    });
    expect(
      body(
        "--rate",
        "12",
        "--limits.low",
        "1",
        "--limits.deep.word",
        "x",
        "--rows",
        '{"id":"a"}',
        "--words",
        "one, two",
        "--maybe",
        "3",
      ),
    ).toEqual({
      prompt: "a ball",
      rate: 12,
      limits: { low: 1, deep: { word: "x" } },
      rows: [{ id: "a" }],
      words: ["one, two"],
      maybe: 3,
    });
    const sizes = shapeOf(
      {
        ...operation,
        input: json(z.object({ sizes: z.array(z.object({ width: z.int(), height: z.int() })) })),
        slots: {},
      },
      [],
    );
    const given = ["832x480", "480x832"].map((text) => ({ type: "flag", flag: "sizes", input: text }) as const);
    expect(bodyOf(sizes, { tokens: given, base: {}, cwd })).toEqual({
      sizes: [
        { width: 832, height: 480 },
        { width: 480, height: 832 },
      ],
    });
    expect(body("--maybe", "null")["maybe"]).toBeNull();
  });

  test("slots take an id and options of that provider", () => {
    expect(body("--guide.scale", "7", "--guide", "video-apg", "--guide.zero-init")["guide"]).toEqual({
      id: "video-apg",
      scale: 7,
      zeroInit: true,
    });
    expect(body("--guide.scale", "7")["guide"]).toEqual({ scale: 7 });
    expect(
      body("--score", "sharp", "--score.every", "2", "--score", "motion", "--score.from", "a", "--score.from", "b")[
        "score"
      ],
    ).toEqual([
      { id: "sharp", every: 2 },
      { id: "motion", from: ["a", "b"] },
    ]);
  });

  test("wins over a body from a file", () => {
    const given = {
      tokens: tokens("--seeds", "9", "--limits.low", "2"),
      base: { prompt: "filed", seeds: [1, 2], limits: { low: 1, deep: { word: "x" } } },
      cwd,
    };
    expect(bodyOf(shape, given)).toEqual({ prompt: "filed", seeds: [9], limits: { low: 2, deep: { word: "x" } } });
  });

  test("mistakes are one sentence with a code", () => {
    expect(codeOf(() => bodyOf(shape, { tokens: [], base: {}, cwd }))).toBe("invalid_input: make needs prompt");
    const grouped = shapeOf(
      { ...operation, input: json(z.object({ set: z.object({ name: z.string(), seed: z.int().optional() }) })) },
      [],
    );
    expect(codeOf(() => bodyOf(grouped, { tokens: [], base: {}, cwd }))).toBe("invalid_input: make needs set.name");
    expect(codeOf(() => body("--num-steps", "many"))).toBe('invalid_input: --num-steps is a whole number, not "many"');
    expect(codeOf(() => body("--num-steps", "0"))).toBe('invalid_input: --num-steps is at least 1, not "0"');
    expect(codeOf(() => body("--task", "v2v"))).toBe('invalid_input: --task is one of t2v, i2v, not "v2v"');
    expect(codeOf(() => body("--rows", "{"))).toBe('invalid_input: --rows is JSON, not "{"');
    expect(codeOf(() => body("--guide", "video-apgg"))).toBe("no_provider: --guide: no provider is named video-apgg");
    expect(codeOf(() => body("--guide", "plain", "--guide.norm-threshold", "3"))).toBe(
      "unknown_option: make: plain has no option --guide.norm-threshold",
    );
    expect(codeOf(() => body("--score.every", "3"))).toContain("invalid_input: --score.every belongs to a provider");
  });

  test("relative paths are made absolute, words are not", () => {
    mkdirSync(join(cwd, "nano"));
    writeFileSync(join(cwd, "a ball"), "");
    expect(body("--image", "x.png")).toEqual({ prompt: "a ball", image: join(cwd, "x.png") });
    expect(body("--model", "nano")["model"]).toBe(join(cwd, "nano"));
    expect(body("--model", "./other")["model"]).toBe(join(cwd, "other"));
    expect(body("--model", "giant-14b")["model"]).toBe("giant-14b");
    expect(body("--model", "sha256:ab")["model"]).toBe("sha256:ab");
    const placed = shapeOf(
      {
        ...operation,
        input: json(z.object({ output: z.string().default("results").meta({ format: "path" }) })),
        slots: {},
      },
      [],
    );
    expect(bodyOf(placed, { tokens: [], base: {}, cwd })).toEqual({ output: join(cwd, "results") });
    expect(body("--image", "out/")["image"]).toBe(`${join(cwd, "out")}/`);
    expect(body("--image", "sha256:ab")["image"]).toBe("sha256:ab");
    expect(body("--image", "x.png:0.8")["image"]).toBe(join(cwd, "x.png:0.8"));
    expect(body("--image", "https://host/x.png")["image"]).toBe("https://host/x.png");
    expect(bodyOf(shape, { tokens: tokens("x"), base: { image: "x.png" }, cwd })["image"]).toBe(join(cwd, "x.png"));
    expect(bodyOf(shape, { tokens: tokens("x", "--image", "x.png"), base: {}, cwd: null })["image"]).toBe("x.png");
    rmSync(cwd, { recursive: true, force: true });
  });
});
