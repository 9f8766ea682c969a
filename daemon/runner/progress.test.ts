import { expect, test } from "bun:test";
import type { Progress } from "../wire.ts";
import { ProgressMeter } from "./progress.ts";

test("progress is thinned out, has a rate and an ETA, and always says the last word", () => {
  const sent: Progress[] = [];
  let now = 0;
  const meter = new ProgressMeter(
    (progress) => sent.push(progress),
    () => now,
  );
  for (let step = 0; step <= 100; step++) {
    meter.report(step, 100, "denoise");
    now += 20;
  }
  expect(sent.length).toBeLessThan(15);
  expect(sent[0]).toMatchObject({ stage: "denoise", done: 0, total: 100 });
  expect(sent.at(-1)).toMatchObject({ done: 100, eta: 0 });
  expect(sent.at(-2)?.rate).toBeCloseTo(50, 0);
});

test("the last report of a stage is sent before the next stage begins, and at the end", () => {
  const sent: Progress[] = [];
  const meter = new ProgressMeter(
    (progress) => sent.push(progress),
    () => 0,
  );
  meter.report(0, 10, "a");
  meter.report(7, 10, "a");
  meter.report(0, 3, "b");
  meter.report(1, 3, "b");
  meter.flush();
  expect(sent.map(({ stage, done }) => `${stage} ${done}`)).toEqual(["a 0", "a 7", "b 0", "b 1"]);
});
