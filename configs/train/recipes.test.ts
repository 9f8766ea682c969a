import { describe, expect, test } from "bun:test";
import { train } from "../../daemon/operations/train.ts";
import flow from "../../plugins/stage-flow/index.ts";
import refine from "../../plugins/stage-refine/index.ts";
import waver from "../../plugins/waver/index.ts";
import { countParameters, WaverParams } from "../../plugins/waver/params.ts";
import nano from "./nano.ts";
import stages from "./waver-12b.ts";

interface Recipe {
  readonly name: string;
  readonly parent: string | null;
  readonly volume?: { readonly videos: number; readonly images: number; readonly epochs: number };
  readonly train: Record<string, unknown> & {
    readonly objective: { readonly id: string; readonly shift?: number };
    readonly family?: { readonly config: unknown };
    readonly lr: number;
    readonly component?: string;
  };
}
const recipes = [...stages, ...nano] as Recipe[];
const named = new Map(recipes.map((recipe) => [recipe.name, recipe]));
const objectives = new Map([...flow.provides, ...refine.provides].map(({ provider }) => [provider.id, provider]));
const family = waver.provides.find(({ hook }) => hook === "family")?.provider;

describe.each(recipes)("$name", ({ parent, train: body }) => {
  test("is what train takes", () => {
    const slots = Object.keys(train.slots);
    const input = Object.fromEntries(Object.entries(body).filter(([key]) => !slots.includes(key)));
    train.input.parse({ ...input, set: "set", output: "out", ...(parent === null ? {} : { model: "parent" }) });
    const { id, ...options } = body.objective;
    objectives.get(id)?.options.parse(options);
    if (body.family !== undefined) family?.options.parse({ config: body.family.config });
    expect(objectives.has(id)).toBe(true);
  });
  test("names a parent that there is", () => expect(parent === null || named.has(parent)).toBe(true));
});

test("the eleven stages are those of Table 2", () => {
  const rows = (stages as Recipe[]).map(({ name, volume, train: { lr, objective } }) => [
    name.replace("waver-12b-", ""),
    Math.round(volume!.videos / 1e4) / 100,
    volume!.images / 1e6,
    volume!.epochs,
    lr,
    objective.shift,
  ]);
  expect(rows).toEqual([
    ["t2i-256p", 0, 170, 24, 1e-4, 1],
    ["t2i-512p", 0, 100, 3, 6e-5, 2],
    ["t2i-1024p", 0, 60, 1, 3e-5, 3],
    ["t2v-192p-12fps", 185, 40, 2, 1e-4, 1.5],
    ["t2v-192p-16fps", 185, 40, 1.5, 1e-4, 1.5],
    ["i2v-480p", 41, 40, 3, 5e-5, 2.5],
    ["i2v-720p", 22, 15, 1, 3e-5, 3],
    ["i2v-720p-ct", 4, 15, 2, 1e-5, 3],
    ["i2v-720p-sft", 0.1, 15, 2, 5e-6, 3],
    ["refiner-1080p", 3, 3, 1, 1e-5, 4.5],
    ["refiner-1080p-sft", 0.2, 3, 1, 5e-6, 4.5],
  ]);
  expect(named.get("waver-12b-refiner-1080p")?.parent).toBe("waver-12b-i2v-720p-ct");
  const config = WaverParams.parse(named.get("waver-12b-t2i-256p")?.train.family?.config);
  expect(countParameters(config).total).toBe(11_179_112_512);
});
