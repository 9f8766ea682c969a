import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { setThreads } from "../../native/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";
import type { OperatorCosts, StageCost } from "./meter.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const small = { model, prompt: "a ball", width: 16, height: 16, numFrames: 5, numSteps: 2, maxTokens: 8 };

interface Output {
  readonly items: readonly { readonly digest: string }[];
  readonly cost: readonly StageCost[];
  readonly profile?: OperatorCosts;
}
const sampled = async (more: object): Promise<Output> => {
  await using ctx = await testContext({ plugins });
  return (await runOperation(generate, { ...small, ...more }, ctx)) as Output;
};

test("a profile accounts for what was planned, operator by operator, and changes nothing", async () => {
  const [plain, profiled] = [await sampled({}), await sampled({ profile: true })];
  expect(plain.profile).toBeUndefined();
  expect(profiled.items[0]?.digest).toBe(plain.items[0]?.digest as string);
  const profile = profiled.profile as OperatorCosts;
  expect(Object.keys(profile)).toEqual(["text", "denoise", "decode"]);
  for (const [stage, rows] of Object.entries(profile)) {
    expect(rows).toContainEqual(expect.objectContaining({ operator: "between operators", calls: 0 }));
    const ms = rows.map((row) => row.ms);
    expect(ms).toEqual(ms.toSorted((a, b) => b - a));
    expect(rows.reduce((sum, { percent }) => sum + percent, 0)).toBeCloseTo(100, 6);
    const flops = rows.reduce((sum, { gflop }) => sum + gflop, 0) * 1e9;
    const planned = profiled.cost.find((each) => each.stage === stage)?.flops as number;
    expect(flops / planned).toBeCloseTo(1, 6);
  }
  // a guided step passes twice through two blocks, each with an attention to itself and one to the text
  const attention = profile["denoise"]?.find(({ operator }) => operator.includes("attention"));
  expect(attention?.calls).toBe(2 * 2 * 2 * 2);
});
