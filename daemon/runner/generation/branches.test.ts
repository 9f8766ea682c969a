import { expect, test } from "bun:test";
import { scope, type Tensor, zeros } from "../../../native/index.ts";
import type { DenoiserInput } from "../../../plugins/index.ts";
import { type Branch, Branches } from "./branches.ts";

test("replicas begin with both prompts when the guide last asked for both; a step without a question changes nothing", () => {
  const calls: number[] = [];
  const network = {
    forward: (): Tensor => expect.unreachable(),
    together: (passes: readonly DenoiserInput[]): Tensor[] => {
      calls.push(passes.length);
      return passes.map(() => zeros([1]));
    },
  };
  const branches = new Branches();
  const step = (...asked: readonly Branch[]): number[] => {
    calls.length = 0;
    scope(() => {
      const predict = branches.of(network, () => ({}) as DenoiserInput);
      for (const branch of asked) predict(branch);
    });
    return [...calls];
  };
  expect(step("positive", "negative")).toEqual([2]);
  expect(step()).toEqual([]); // a cache knew both
  expect(step("positive", "negative")).toEqual([2]);
  expect(step("positive")).toEqual([2]); // the guide has just stopped
  expect(step("positive")).toEqual([1]);
  expect(step("positive", "negative")).toEqual([1, 1]);
  expect(step("positive", "negative")).toEqual([2]);
});
