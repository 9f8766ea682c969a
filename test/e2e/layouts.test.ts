/** Models on disk as a real daemon meets them: the folder that Wan's authors publish, and weights that are replaced. */
import { expect, test } from "bun:test";
import { cpSync, renameSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, saveSafetensors, scope, type Tensor } from "../../native/index.ts";
import { RankDaemon } from "../support/rank-daemon.ts";
import { wanLayouts } from "../support/wan-layouts.ts";

test("parts in torch's own format are converted by child jobs, once", async () => {
  await using daemon = await RankDaemon.open();
  const { diffusers, authors, file } = await wanLayouts(join(daemon.home, "layouts"));
  const expected = await daemon.generated("wan", { model: diffusers });
  expect(await daemon.generated("wan", { model: authors })).toEqual(expected);
  const conversions = async (): Promise<number> =>
    (await daemon.client.jobs()).filter(({ operation, reused }) => operation === "convert" && !reused).length;
  expect(await conversions()).toBe(2);
  await daemon.generated("wan", { model: authors, seed: 8 });
  expect(await conversions()).toBe(2);
  // what lies beside a single file may have been replaced, and nobody outside of the job knows where that is
  const isReused = async (model: string): Promise<boolean> => {
    const { id } = await daemon.client.submit("generate", daemon.body("wan", { model }));
    return (await daemon.client.wait(id)).reused;
  };
  await daemon.generated("wan", { model: file });
  expect([await isReused(authors), await isReused(file)]).toEqual([true, false]);
}, 120_000);

test("weights that are replaced below a warm daemon are those of the next generation", async () => {
  await using daemon = await RankDaemon.open();
  const [model, other] = [join(daemon.home, "model"), join(daemon.home, "other")];
  for (const copy of [model, other]) cpSync(String(daemon.body("wan", {})["model"]), copy, { recursive: true });
  const weights = "transformer/diffusion_pytorch_model.safetensors";
  {
    using file = openSafetensors(join(model, weights));
    const louder = (): [string, Tensor][] => file.keys.map((key) => [key, file.get(key).mul(1.1)]);
    scope(() => saveSafetensors(join(other, weights), Object.fromEntries(louder())));
  }
  const before = await daemon.generated("wan", { model });
  const expected = await daemon.generated("wan", { model: other });
  expect(expected).not.toEqual(before);
  renameSync(join(other, weights), join(model, weights));
  expect(await daemon.generated("wan", { model })).toEqual(expected);
}, 120_000);
