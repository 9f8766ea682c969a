import { describe, expect, test } from "bun:test";
import { derived, inferenceMode, liveTensors, noGrad, scope, setThreads, type Tensor, tensor } from "./index.ts";

setThreads(1);

/** Twice `of`, kept with `owner`, and how often it was computed. */
function doubler(): { of(owner: Tensor, from: Tensor, ...numbers: number[]): number[]; count: number } {
  const key = {};
  return {
    count: 0,
    of(owner, from, ...numbers) {
      return (
        derived(owner, key, [owner, from, ...numbers], () => {
          this.count++;
          return [from.mul(2)];
        })[0] as Tensor
      ).toNumbers();
    },
  };
}

describe("derived", () => {
  test("is computed once, and again after a change in place, in a number or of the tensor itself", () => {
    using owner = tensor([1]);
    using weight = tensor([3]);
    const twice = doubler();
    expect([twice.of(owner, weight), twice.of(owner, weight), twice.count]).toEqual([[6], [6], 1]);
    noGrad(() => weight.add_(1));
    expect([twice.of(owner, weight), twice.count]).toEqual([[8], 2]);
    using other = tensor([3]);
    expect([twice.of(owner, other), twice.count]).toEqual([[6], 3]);
    expect([twice.of(owner, other, 7), twice.of(owner, other, 7), twice.count]).toEqual([[6], [6], 4]);
    noGrad(() => owner.mul_(1));
    twice.of(owner, other, 7);
    expect(twice.count).toBe(5);
  });

  test("a handle that comes again names another tensor", () => {
    using owner = tensor([1]);
    const twice = doubler();
    for (const value of [2, 3, 4]) {
      using weight = tensor([value]); // takes the slot of the one before
      expect(twice.of(owner, weight)).toEqual([2 * value]);
    }
    expect(twice.count).toBe(3);
  });

  test("two users of one owner do not see each other", () => {
    using owner = tensor([5]);
    const [a, b] = [doubler(), doubler()];
    a.of(owner, owner);
    b.of(owner, owner);
    a.of(owner, owner);
    expect([a.count, b.count]).toEqual([1, 1]);
  });

  test("goes with its owner, disposed or freed by a scope, also what was derived from it", () => {
    const before = liveTensors();
    scope(() => {
      const owner = tensor([1]);
      const [kept] = derived(owner, {}, [owner], () => [owner.mul(2)]) as [Tensor];
      derived(kept, {}, [kept], () => [kept.mul(2)]);
      expect(liveTensors()).toBe(before + 3);
      using single = tensor([1]);
      derived(single, {}, [single], () => [single.mul(2)]);
    });
    expect(liveTensors()).toBe(before);
  });

  test("nothing is kept of tensors whose changes nobody counts", () => {
    const before = liveTensors();
    inferenceMode(() =>
      scope(() => {
        const weight = tensor([2]);
        const twice = doubler();
        expect([twice.of(weight, weight), twice.of(weight, weight), twice.count]).toEqual([[4], [4], 2]);
        weight.add_(1);
        expect(twice.of(weight, weight)).toEqual([6]);
      }),
    );
    expect(liveTensors()).toBe(before);
  });
});
