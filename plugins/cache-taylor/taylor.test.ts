import { describe, expect, test } from "bun:test";
import { Generator, liveTensors, randn, scope, setThreads, type Tensor } from "../../native/index.ts";
import type { PassOf } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import plugin from "./index.ts";
import { type Settings, Taylor } from "./taylor.ts";

setThreads(1);
const NUM_STEPS = 14;
const SETTINGS: Settings = { interval: 3, order: 1, whole: 3, to: 1, measure: false };
const at = (step: number, more: Partial<PassOf> = {}): PassOf => ({
  ...{ network: 0, branch: "positive", call: 0, step, numSteps: NUM_STEPS },
  ...more,
});
const noise = (seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn([2, 3], { generator });
};

/** Outputs of the steps from `from` on, and the steps in which the network ran. `f` is what it says at a step. */
function sampled(cache: Taylor, f: (step: number) => Tensor, from = 0): { outputs: number[][]; ran: number[] } {
  const outputs: number[][] = [];
  const ran: number[] = [];
  for (let step = from; step < NUM_STEPS; step++)
    scope(() => {
      const pass = (): Tensor => {
        ran.push(step);
        return f(step);
      };
      outputs.push(cache.during(at(step), pass).toNumbers());
    });
  return { outputs, ran };
}
/** A polynomial of the step. */
const polynomial =
  (degree: number) =>
  (step: number): Tensor =>
    Array.from({ length: degree + 1 }, (_, i) => noise(10 + i).mul((step / NUM_STEPS) ** i)).reduce((a, b) => a.add(b));
const worst = (a: readonly number[][], b: readonly number[][]): number =>
  Math.max(...a.flatMap((row, i) => row.map((value, k) => Math.abs(value - (b[i]?.[k] as number)))));
const exact = (f: (step: number) => Tensor): number[][] =>
  Array.from({ length: NUM_STEPS }, (_, step) => scope(() => f(step).toNumbers()));

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe("the series", () => {
  test("runs the network in the first steps and then in every n-th, and at the end where told", () => {
    using cache = new Taylor(SETTINGS);
    expect(sampled(cache, polynomial(1)).ran).toEqual([0, 1, 2, 4, 7, 10, 13]);
    using late = new Taylor({ ...SETTINGS, to: 8 / NUM_STEPS });
    expect(sampled(late, polynomial(1)).ran).toEqual([0, 1, 2, 4, 7, 8, 9, 10, 11, 12, 13]);
  });

  test("of order 1 continues a line exactly, of order 0 repeats, and neither follows a bend", () => {
    for (const [order, degree, isExact] of [
      [0, 0, true],
      [0, 1, false],
      [1, 1, true],
      [1, 2, false],
    ] as const) {
      using cache = new Taylor({ ...SETTINGS, order });
      const error = worst(sampled(cache, polynomial(degree)).outputs, exact(polynomial(degree)));
      if (isExact) expect(error).toBeLessThan(1e-5);
      else expect(error).toBeGreaterThan(1e-2);
    }
  });

  test("adds differences of differences over their own steps, times d^i / i!", () => {
    const f = (step: number): Tensor => noise(100 + step);
    using cache = new Taylor({ ...SETTINGS, order: 2 });
    const { outputs } = sampled(cache, f);
    // runs at 1, 2, 4: the first differences are those of 1 to 2 and of 2 to 4, over their steps
    const [f1, f2, f4] = [1, 2, 4].map((step) => scope(() => f(step).toNumbers())) as [number[], number[], number[]];
    for (const d of [1, 2]) {
      const wanted = f4.map((value, i) => {
        const [early, late] = [(f2[i] as number) - (f1[i] as number), (value - (f2[i] as number)) / 2];
        return value + late * d + (((late - early) / 2) * d * d) / 2;
      });
      expect(worst([outputs[4 + d] as number[]], [wanted])).toBeLessThan(1e-5);
    }
  });
});

test("one that begins where another stands gives what that would have given", () => {
  const f = (step: number): Tensor => noise(100 + step);
  using whole = new Taylor({ ...SETTINGS, order: 2 });
  const wanted = sampled(whole, f).outputs;
  for (let cut = 1; cut < NUM_STEPS; cut++) {
    using before = new Taylor({ ...SETTINGS, order: 2 });
    for (let step = 0; step < cut; step++) scope(() => void before.during(at(step), () => f(step)));
    using after = new Taylor({ ...SETTINGS, order: 2 }, before.memory());
    expect(sampled(after, f, cut).outputs).toEqual(wanted.slice(cut));
    expect(after.tally).toEqual(whole.tally);
  }
});

test("prompts and networks have series of their own, and the second of two begins anew", () => {
  using cache = new Taylor(SETTINGS);
  const ran = (of: PassOf): boolean => {
    let isRun = false;
    scope(() => {
      void cache.during(of, () => {
        isRun = true;
        return noise(1);
      });
    });
    return isRun;
  };
  for (const branch of ["positive", "negative"] as const)
    expect([0, 1, 2, 3, 4].map((step) => ran(at(step, { branch })))).toEqual([true, true, true, false, true]);
  const held = liveTensors();
  expect([5, 6, 7, 8, 9].map((step) => ran(at(step, { network: 1 })))).toEqual([true, true, true, false, true]);
  expect(liveTensors()).toBeLessThan(held);
});
