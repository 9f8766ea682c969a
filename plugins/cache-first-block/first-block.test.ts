import { describe, expect, test } from "bun:test";
import {
  cat,
  Generator,
  Linear,
  liveTensors,
  Module,
  noGrad,
  normal_,
  randn,
  scope,
  setThreads,
  type Tensor,
  throughBlocks,
  withBlockPolicy,
} from "../../native/index.ts";
import type { PassOf } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { FirstBlock, type Settings } from "./first-block.ts";
import plugin from "./index.ts";

setThreads(1);
const SETTINGS: Settings = { threshold: 0, mostInRow: null, from: 0, to: 1, measure: false };
const HUGE = 1e9;
const D = 6;

/** x + W tanh(x) */
class Block extends Module {
  readonly inner = new Linear(D, D);
  ran = 0;
  forward(x: Tensor): Tensor {
    this.ran++;
    return x.add(this.inner.forward(x.tanh()));
  }
}
/** Two streams through some blocks, then both as one through others; what the network gives is the first stream's part. */
class Network extends Module {
  readonly dual: Block[];
  readonly single: Block[];
  constructor(numDual: number, numSingle: number) {
    super();
    this.dual = Array.from({ length: numDual }, () => new Block());
    this.single = Array.from({ length: numSingle }, () => new Block());
    using generator = new Generator(7);
    this.init(generator);
    for (const weight of this.parameters()) normal_(weight, 0, 0.3, generator);
  }
  /** x [B L D], text [B P D] -> [B L D] */
  forward(x: Tensor, text: Tensor): Tensor {
    const streams = throughBlocks<Block, [Tensor, Tensor]>(this.dual, [x, text], (block, [a, b]) => [
      block.forward(a),
      block.forward(b),
    ]);
    const joint = streams[0].add(streams[1].mean([1], true));
    return throughBlocks(this.single, joint, (block, y) => block.forward(y));
  }
  ran(): number[] {
    return [...this.dual, ...this.single].map((block) => block.ran);
  }
}

const noise = (seed: number, shape: readonly number[] = [1, 5, D]): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const NUM_STEPS = 6;
const at = (step: number, more: Partial<PassOf> = {}): PassOf => ({
  ...{ network: 0, branch: "positive", call: 0, step, numSteps: NUM_STEPS },
  ...more,
});
/** What a network is given in a step: noise that has moved a little since the step before. */
const input = (step: number, seed = 1): Tensor => noise(seed).add(noise(seed + 1).mul(0.05 * step));

/** Outputs of all steps. */
const sampled = (network: Network, cache: FirstBlock | null, from = 0, seed = 1): number[][] => {
  const outputs: number[][] = [];
  for (let step = from; step < NUM_STEPS; step++)
    scope(() => {
      const pass = () => noGrad(() => network.forward(input(step, seed), noise(50)));
      outputs.push((cache === null ? pass() : cache.during(at(step), pass)).toNumbers());
    });
  return outputs;
};

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe.each([
  [3, 2],
  [1, 2],
  [4, 0],
])("%i blocks of two streams and %i of one", (numDual, numSingle) => {
  const numBlocks = numDual + numSingle;

  test("a threshold of 0 gives the network's own output to the bit, and leaves nothing out", () => {
    using network = new Network(numDual, numSingle);
    using cache = new FirstBlock(SETTINGS);
    expect(sampled(network, cache)).toEqual(sampled(network, null));
    expect(cache.tally).toEqual({ blocks: NUM_STEPS * numBlocks, skipped: 0 });
  });

  test("a huge one runs all blocks in the first step and where it must, elsewhere the first alone", () => {
    using network = new Network(numDual, numSingle);
    using cache = new FirstBlock({ ...SETTINGS, threshold: HUGE, to: (NUM_STEPS - 1) / NUM_STEPS });
    const [plain, outputs] = [sampled(network, null), sampled(network, cache)];
    expect(outputs[0]).toEqual(plain[0] as number[]);
    expect(outputs.at(-1)).toEqual(plain.at(-1) as number[]);
    expect(outputs[1]).not.toEqual(plain[1] as number[]);
    const [first, ...others] = network.ran();
    const streams = (i: number): number => (i < numDual ? 2 : 1);
    // both samplings; a block of two streams runs once a stream
    expect(first).toBe(2 * 2 * NUM_STEPS);
    expect(others).toEqual(others.map((_, i) => streams(i + 1) * (NUM_STEPS + 2)));
    expect(cache.tally).toEqual({ blocks: NUM_STEPS * numBlocks, skipped: (NUM_STEPS - 2) * (numBlocks - 1) });
  });

  test("one that begins where another stands gives what that would have given", () => {
    using network = new Network(numDual, numSingle);
    const settings = { ...SETTINGS, threshold: 0.1, mostInRow: 2 };
    using whole = new FirstBlock(settings);
    const wanted = sampled(network, whole);
    expect(whole.tally.skipped).toBeGreaterThan(0);
    expect(whole.tally.skipped).toBeLessThan((NUM_STEPS - 1) * (numBlocks - 1));
    for (let cut = 1; cut < NUM_STEPS; cut++) {
      using before = new FirstBlock(settings);
      for (let step = 0; step < cut; step++)
        scope(() => void before.during(at(step), () => noGrad(() => network.forward(input(step), noise(50)))));
      using after = new FirstBlock(settings, before.memory());
      expect(sampled(network, after, cut)).toEqual(wanted.slice(cut));
      expect(after.tally).toEqual(whole.tally);
    }
  });
});

test("what a skipped pass gives is the first block's output and what the others added before", () => {
  using network = new Network(3, 0);
  using cache = new FirstBlock({ ...SETTINGS, threshold: HUGE });
  scope(() => {
    noGrad(() => {
      const text = noise(50);
      const head = (x: Tensor): Tensor => (network.dual[0] as Block).forward(x);
      const tail = (x: Tensor): Tensor => network.dual.slice(1).reduce((y, block) => block.forward(y), x);
      const joint = (x: Tensor, t: Tensor): Tensor => x.add(t.mean([1], true));
      cache.during(at(0), () => network.forward(input(0), text));
      const given = cache.during(at(1), () => network.forward(input(1), text));
      const guess = (x: Tensor, then: Tensor): Tensor => head(x).add(tail(head(then)).sub(head(then)));
      const wanted = joint(guess(input(1), input(0)), guess(text, text));
      expect(given.sub(wanted).abs().max().item()).toBeLessThan(1e-5); // of numbers near 1, summed in another order
    });
  });
});

test("a row of a batch gets what it would get alone", () => {
  using network = new Network(2, 2);
  const settings = { ...SETTINGS, threshold: 0.1 };
  // rows that are new in every step, that move slowly, and that do not move
  const rows = [(step: number) => noise(10 + step), (step: number) => input(step, 30), () => noise(40)];
  const run = (chosen: typeof rows): { outputs: number[][]; skipped: number } => {
    using cache = new FirstBlock(settings);
    const outputs: number[][] = [];
    for (let step = 0; step < NUM_STEPS; step++)
      scope(() => {
        const x = scope(() => cat(chosen.map((row) => row(step))));
        const text = cat(chosen.map(() => noise(50)));
        const y = cache.during(at(step), () => noGrad(() => network.forward(x, text)));
        outputs.push(y.toNumbers());
      });
    return { outputs, skipped: cache.tally.skipped };
  };
  const together = run(rows);
  const alone = rows.map((row) => run([row]));
  expect(alone.map(({ skipped }) => skipped)).toEqual([0, expect.any(Number), 3 * (NUM_STEPS - 1)]);
  expect(alone[1]?.skipped).toBeGreaterThan(0);
  // one of three is computed in every step, so nothing is saved
  expect(together.skipped).toBe(0);
  const size = 5 * D;
  for (const [i, { outputs }] of alone.entries())
    for (const [step, output] of outputs.entries()) {
      const row = together.outputs[step]?.slice(i * size, (i + 1) * size) as number[];
      const worst = Math.max(...row.map((value, k) => Math.abs(value - (output[k] as number))));
      expect(worst).toBeLessThan(1e-5); // a product over three rows sums in another order than one over one
    }
});

test("prompts, networks and calls of one step know nothing of each other", () => {
  using network = new Network(3, 0);
  using cache = new FirstBlock({ ...SETTINGS, threshold: HUGE });
  const skippedBy = (of: PassOf): number => {
    const before = cache.tally.skipped;
    scope(() => void cache.during(of, () => noGrad(() => network.forward(input(of.step), noise(50)))));
    return cache.tally.skipped - before;
  };
  expect(skippedBy(at(0))).toBe(0);
  expect(skippedBy(at(0, { branch: "negative" }))).toBe(0);
  expect(skippedBy(at(0, { call: 1 }))).toBe(0);
  for (const more of [{}, { branch: "negative" as const }, { call: 1 }]) expect(skippedBy(at(1, more))).toBe(2);
  const held = liveTensors();
  expect(skippedBy(at(2, { network: 1 }))).toBe(0);
  // the first network's turn is over
  expect(liveTensors()).toBeLessThan(held);
  expect(skippedBy(at(3))).toBe(0);
});

test("no block is announced that will not run", () => {
  using network = new Network(3, 0);
  using cache = new FirstBlock({ ...SETTINGS, threshold: HUGE });
  const seen: string[] = [];
  const name = (block: Module | undefined): string =>
    `${block === undefined ? "none" : network.dual.indexOf(block as Block)}`;
  const policy = {
    before: (block: Module, next: Module | undefined) => void seen.push(`${name(block)} then ${name(next)}`),
    after: () => undefined,
  };
  for (const step of [0, 1])
    scope(
      () =>
        void withBlockPolicy(policy, () =>
          cache.during(at(step), () => noGrad(() => network.forward(input(step), noise(50)))),
        ),
    );
  expect(seen).toEqual(["0 then none", "1 then 2", "2 then none", "0 then none"]);
});
