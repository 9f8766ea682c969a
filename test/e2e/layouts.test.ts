/** A real daemon generates from the folder that Wan's authors publish, with parts in torch's own format. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { RankDaemon } from "../support/rank-daemon.ts";
import { wanLayouts } from "../support/wan-layouts.ts";

test("parts in torch's own format are converted by child jobs, once", async () => {
  await using daemon = await RankDaemon.open();
  const { diffusers, authors } = await wanLayouts(join(daemon.home, "layouts"));
  const expected = await daemon.generated("wan", { model: diffusers });
  expect(await daemon.generated("wan", { model: authors })).toEqual(expected);
  const conversions = async (): Promise<number> =>
    (await daemon.client.jobs()).filter(({ operation, reused }) => operation === "convert" && !reused).length;
  expect(await conversions()).toBe(2);
  await daemon.generated("wan", { model: authors, seed: 8 });
  expect(await conversions()).toBe(2);
}, 120_000);
