import { expect, test } from "bun:test";
import { empty, ones } from "../ops.ts";
import { outline } from "../outline.ts";
import { allocatedBytes, peakBytes, resetPeakBytes } from "../runtime.ts";
import { liveTensors, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { type BlockStretch, throughBlocks, withShortcut } from "./blocks.ts";
import { Module } from "./module.ts";

/** Adds one by way of three tensors. */
class Block extends Module {
  forward(x: Tensor): Tensor {
    return x.mul(2).add(2).div(2);
  }
}
const blocks = Array.from({ length: 8 }, () => new Block());

test("memory does not grow with the number of blocks", () => {
  using x = ones([1 << 18]);
  const [before, alive] = [allocatedBytes(), liveTensors()];
  resetPeakBytes();
  scope(() => {
    const y = throughBlocks(blocks, x, (block, x) => block.forward(x));
    expect(y.mean().item()).toBe(9);
  });
  // what goes in, what comes out, and two between
  expect((peakBytes() - before) / (4 << 18)).toBeLessThan(5);
  expect(liveTensors()).toBe(alive);
  expect(x.disposed).toBe(false);
});

test("what is tapped stays, and so does a tensor that a block hands on", () => {
  using x = ones([2]);
  scope(() => {
    const seen: Tensor[] = [];
    const last = throughBlocks(
      blocks,
      x,
      (block, x) => {
        const y = block.forward(x);
        seen.push(y);
        return y;
      },
      { keep: true },
    );
    expect(seen.map((y) => y.toNumbers()[0])).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
    const pair = throughBlocks<Block, [Tensor, Tensor]>(blocks, [x, last], (block, [a, same]) => [
      block.forward(a),
      same,
    ]);
    expect(pair.map((y) => y.toNumbers()[0])).toEqual([9, 9]);
  });
});

test("gradients go through as if nothing had been freed", () => {
  using x = ones([3]).requiresGrad_();
  scope(() =>
    throughBlocks(blocks, x, (_, x) => x.mul(x).add(0))
      .sum()
      .backward(),
  );
  expect(x.grad?.toNumbers()).toEqual([256, 256, 256]);
});

test("an outline sees the same peak as the run", () => {
  using x = ones([1 << 16]);
  using shape = empty([1 << 16], { device: "meta" });
  const before = allocatedBytes();
  resetPeakBytes();
  scope(() => void throughBlocks(blocks, x, (block, x) => block.forward(x)));
  const peak = peakBytes() - before;
  const planned = outline("cpu", () => void throughBlocks(blocks, shape, (block, x) => block.forward(x))).peakBytes;
  // the run also makes scalars
  expect(Math.abs(planned - peak)).toBeLessThan(64);
});

test("a shortcut runs what it will of each stretch; blocks inside a block are not its business", () => {
  using x = ones([2]);
  const lengths: number[] = [];
  /** All but the second block. */
  const through = (stretch: BlockStretch, carry: readonly Tensor[]): Tensor[] => {
    lengths.push(stretch.length);
    return stretch.run(stretch.run(carry, 0, 1), 2, stretch.length);
  };
  const nested = (block: Block, x: Tensor): Tensor => throughBlocks([block, block], x, (each, y) => each.forward(y));
  const alive = liveTensors();
  scope(() => {
    const given = withShortcut({ through }, () => {
      const pair = throughBlocks<Block, { a: Tensor; rest: [Tensor, number] }>(
        blocks,
        { a: x, rest: [x, 5] },
        (block, { a, rest: [b, n] }) => ({ a: block.forward(a), rest: [nested(block, b), n] }),
      );
      return [pair.a, ...pair.rest, throughBlocks(blocks.slice(0, 3), x, (block, y) => block.forward(y))] as const;
    });
    expect(given.map((y) => (typeof y === "number" ? y : y.toNumbers()[0]))).toEqual([8, 15, 5, 3]);
  });
  expect(lengths).toEqual([8, 3]);
  expect(liveTensors()).toBe(alive);
  expect(x.disposed).toBe(false);
  expect(() =>
    scope(
      () => void withShortcut({ through: () => [] }, () => throughBlocks(blocks, x, (block, y) => block.forward(y))),
    ),
  ).toThrow(/as many tensors/);
});
