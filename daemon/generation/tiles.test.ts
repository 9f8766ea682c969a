import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { setThreads } from "../../native/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";
import { operations } from "../operations/plan.ts";
import type { Plan } from "./figures.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const request = {
  model,
  prompt: "a ball",
  width: 192,
  height: 128,
  numFrames: 5,
  numSteps: 2,
  maxTokens: 16,
  minPsnr: 0,
};

const open = (memoryBudget = Number.POSITIVE_INFINITY): Promise<TestContext> => testContext({ plugins, memoryBudget });
const planOf = async (more: Record<string, unknown>, memoryBudget?: number): Promise<Plan> => {
  await using ctx = await open(memoryBudget);
  return (await runOperation(operations["plan-generate"], { ...request, ...more }, ctx)) as Plan;
};
interface Made {
  readonly digest: string;
  readonly tileSize: unknown;
  /** Measured, of the decode. */
  readonly peakBytes: number;
}
async function made(more: Record<string, unknown>, memoryBudget?: number): Promise<Made> {
  await using ctx = await open(memoryBudget);
  const { items, cost } = (await runOperation(generate, { ...request, ...more }, ctx)) as {
    items: [{ digest: string }];
    cost: { stage: string; peakBytes?: number }[];
  };
  return {
    digest: items[0].digest,
    tileSize: ctx.logged.find(({ event }) => event === "frames_in_tiles")?.fields["tileSize"],
    peakBytes: cost.find(({ stage }) => stage === "decode")?.peakBytes as number,
  };
}
const stageOf = (plan: Plan, name: string): Plan["stages"][number] =>
  plan.stages.find(({ stage }) => stage === name) as Plan["stages"][number];
/** What must be there at once while frames are decoded. */
const needed = (plan: Plan): number =>
  stageOf(plan, "denoise").weightBytes + stageOf(plan, "decode").weightBytes + stageOf(plan, "decode").peakBytes;

test("frames stay whole where they fit, and are coded in the largest tiles that do where they do not", async () => {
  const whole = await planOf({});
  expect(whole.tileSize).toBeNull();
  expect((await planOf({}, needed(whole))).tileSize).toBeNull();
  const small = await planOf({}, needed(whole) - 1);
  expect(small.tileSize).toBe(128);
  expect(needed(small)).toBeLessThan(needed(whole));
  expect(stageOf(small, "decode").flops).toBeGreaterThan(stageOf(whole, "decode").flops); // tiles overlap
  // where none fits: what takes least
  expect((await planOf({ offload: "none" }, 1)).tileSize).toBe(64);
  // asked for, either way
  expect((await planOf({ tileSize: 64 })).tileSize).toBe(64);
  expect((await planOf({ tileSize: 0 }, 1)).tileSize).toBeNull();
  expect(small.stages.map(({ stage }) => stage)).toEqual(whole.stages.map(({ stage }) => stage));
});

test("a job does as planned, says so, and takes less memory", async () => {
  const budget = needed(await planOf({})) - 1;
  const [whole, chosen, asked] = [
    await made({ tileSize: 0 }, budget),
    await made({}, budget),
    await made({ tileSize: 128 }),
  ];
  expect([whole.tileSize, chosen.tileSize, asked.tileSize]).toEqual([undefined, 128, undefined]);
  expect(chosen.digest).toBe(asked.digest);
  expect(chosen.digest).not.toBe(whole.digest);
  expect(chosen.peakBytes).toBeLessThan(whole.peakBytes);
  const planned = stageOf(await planOf({ tileSize: 128 }), "decode").peakBytes;
  expect(Math.abs(asked.peakBytes / planned - 1)).toBeLessThan(0.01);
});

test("a size that tiles cannot have is refused", async () => {
  await expect(planOf({ tileSize: 100 })).rejects.toThrow(/multiple of 64/);
});
