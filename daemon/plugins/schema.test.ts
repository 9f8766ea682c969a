import { describe, expect, test } from "bun:test";
import { type Slot, WaverError, z } from "../../plugins/index.ts";
import { type BodyParts, bodySchema, type Choice, parseBody, schemaFromJson } from "./schema.ts";

const cfg = { id: "cfg", options: z.object({ scale: z.number().default(5) }) };
const late = {
  id: "late",
  options: schemaFromJson({ type: "object", properties: { from: { type: "number", default: 0.5 } } }),
};
const sharp = { id: "sharpness", options: z.object({}) };

function parts(slots: Record<string, Slot>, more: Partial<BodyParts> = {}): BodyParts {
  const choices: Record<string, Choice[]> = { guide: [cfg, late], score: [sharp], codec: [] };
  return {
    name: "generate",
    input: z.object({ prompt: z.string(), numSteps: z.int().default(30) }),
    slots,
    defaults: {},
    choices: (hook) => choices[hook] ?? [],
    ...more,
  };
}
const guide: Slot = { hook: "guide", summary: "how predictions are combined", default: { id: "cfg" } };
const parse = (from: BodyParts, body: unknown): ReturnType<typeof parseBody> => parseBody(from, bodySchema(from), body);

function refusal(from: BodyParts, body: unknown): WaverError {
  try {
    parse(from, body);
  } catch (error) {
    if (error instanceof WaverError) return error;
    throw error;
  }
  throw new Error("the body was taken");
}

describe("a body", () => {
  test("gets defaults, also inside the default pick", () => {
    const { input, picks, body } = parse(parts({ guide }), { prompt: "a ball" });
    expect(input).toEqual({ prompt: "a ball", numSteps: 30 });
    expect(picks).toEqual({ guide: { id: "cfg", scale: 5 } });
    expect(parse(parts({ guide }), body).body).toEqual(body);
  });

  test("takes a bare id, and options without an id for the default provider", () => {
    expect(parse(parts({ guide }), { prompt: "", guide: "late" }).picks).toEqual({ guide: { id: "late", from: 0.5 } });
    expect(parse(parts({ guide }), { prompt: "", guide: { scale: 2 } }).picks).toEqual({
      guide: { id: "cfg", scale: 2 },
    });
  });

  test("holds lists for slots that take many", () => {
    const many = parts({ scorers: { hook: "score", summary: "measures", many: true } });
    expect(parse(many, { prompt: "", scorers: "sharpness" }).picks).toEqual({ scorers: [{ id: "sharpness" }] });
    expect(refusal(many, { prompt: "" }).code).toBe("invalid_input");
  });

  test("that is wrong inside an alternative is told of that alternative", () => {
    const split = z.union([z.enum(["even", "odd"]), z.strictObject({ by: z.int().positive() })]).optional();
    const either = parts({}, { input: z.object({ split }) });
    const said = (body: unknown): string => {
      const { code, message } = refusal(either, { split: body });
      return `${code}: ${message}`;
    };
    expect(said("both")).toContain('split: Invalid option: expected one of "even"|"odd"');
    expect(said({ by: 0 })).toContain("split.by: ");
    expect(said({ by: 1, to: 1 })).toBe("unknown_option: generate has no option split.to");
    expect(parse(either, { split: { by: 2 } }).body).toEqual({ split: { by: 2 } });
  });

  test("prefers the configuration's default, unless that provider is not installed", () => {
    expect(parse(parts({ guide }, { defaults: { guide: "late" } }), { prompt: "" }).picks).toEqual({
      guide: { id: "late", from: 0.5 },
    });
    expect(parse(parts({ guide }, { defaults: { guide: "gone" } }), { prompt: "" }).picks).toEqual({
      guide: { id: "cfg", scale: 5 },
    });
  });

  test("is refused with the nearest word", () => {
    expect(refusal(parts({ guide }), { prompt: "", numStep: 3 })).toMatchObject({
      code: "unknown_option",
      hint: "did you mean numSteps?",
    });
    expect(refusal(parts({ guide }), { prompt: "", guide: { id: "cfg", scal: 3 } })).toMatchObject({
      code: "unknown_option",
      message: "generate has no option guide.scal",
      hint: "did you mean scale?",
    });
    expect(refusal(parts({ guide }), { prompt: "", guide: "cfgg" })).toMatchObject({
      code: "no_provider",
      hint: "did you mean cfg?",
    });
    expect(refusal(parts({ guide }), { prompt: "", guide: { id: "late", frm: 1 } })).toMatchObject({
      code: "unknown_option",
    });
  });

  test("is refused with what is missing or wrong", () => {
    expect(refusal(parts({ guide }), {}).message).toBe("generate needs prompt");
    expect(refusal(parts({ guide }), { prompt: "", numSteps: 2.5 })).toMatchObject({ code: "invalid_input" });
    expect(refusal(parts({ guide: { hook: "guide", summary: "how" } }), { prompt: "" })).toMatchObject({
      code: "invalid_input",
      hint: "one of cfg, late",
    });
    expect(refusal(parts({ codec: { hook: "codec", summary: "what" } }), { prompt: "" })).toMatchObject({
      code: "no_provider",
    });
    expect(refusal(parts({}), [])).toMatchObject({ code: "invalid_input" });
  });

  test("keeps the refinements of an operation's own schema", () => {
    const refined = parts(
      { guide },
      {
        input: z
          .object({ from: z.int(), to: z.int() })
          .refine(({ from, to }) => from < to, { message: "from must be before to" }),
      },
    );
    expect(refusal(refined, { from: 3, to: 2 }).message).toContain("from must be before to");
  });
});
