import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { openSafetensors, scope, setThreads } from "../../native/index.ts";
import { WaverError } from "../../plugins/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { wanLayouts, wanPairs } from "../../test/support/wan-layouts.ts";
import { convert } from "../operations/convert.ts";
import { generate } from "../operations/generate.ts";
import { operations } from "../operations/plan.ts";
import { encodePng } from "./png.ts";

setThreads(1);
setDefaultTimeout(60_000);
const scratch = mkdtempSync(join(tmpdir(), "foreign-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let [diffusers, authors, file] = ["", "", ""];
beforeAll(async () => {
  ({ diffusers, authors, file } = await wanLayouts(scratch));
});

const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "storage-local"];
const request = {
  ...{ prompt: "a red ball", negativePrompt: "blurred", seed: 3, maxTokens: 16, keepFrames: true, minPsnr: 0 },
  ...{ width: 32, height: 32, numFrames: 5, numSteps: 3 },
};
const open = (): Promise<TestContext> => testContext({ plugins, operations: { convert } });
async function frames(model: string, ctx: TestContext, more: object = {}): Promise<Float32Array> {
  const { items } = (await runOperation(generate, { ...request, ...more, model }, ctx)) as {
    items: { frames: string }[];
  };
  using made = openSafetensors(items[0]?.frames as string);
  return scope(() => made.get("video").toFloat32Array());
}

test("the authors' folder and ComfyUI's tree give the frames of Diffusers' folder", async () => {
  await using one = await open();
  const expected = await frames(diffusers, one);
  await using two = await open();
  expect(await frames(authors, two)).toEqual(expected);
  const converted = two.logged
    .filter(({ event }) => event === "checkpoint_converted")
    .map(({ fields }) => fields["component"]);
  expect(converted.sort()).toEqual(["text_encoder", "vae"]);
  await using three = await open();
  expect(await frames(file, three)).toEqual(expected);
  expect(three.logged.some(({ event }) => event === "checkpoint_converted")).toBe(false);
});

test("two denoisers that continue a picture give the same from either folder, the second from where the authors have it", async () => {
  const pair = wanPairs(scratch, { diffusers, authors });
  const image = join(scratch, "first.png");
  const grey = Uint8Array.from({ length: 32 * 32 * 3 }, (_, i) => (i * 7) % 256);
  writeFileSync(image, encodePng(grey, 32, 32, undefined));
  const both: Float32Array[] = [];
  for (const model of [pair.diffusers, pair.authors]) {
    await using ctx = await open();
    both.push(await frames(model, ctx, { image, numSteps: 6 }));
  }
  expect(both[1]).toEqual(both[0] as Float32Array);
});

test("a plan converts nothing, and says what would", async () => {
  await using ctx = await open();
  const plan = operations["plan-generate"];
  await expect(runOperation(plan, { ...request, model: authors }, ctx)).rejects.toThrow(
    /not read before it is converted/,
  );
  expect(await runOperation(plan, { ...request, model: file }, ctx)).toMatchObject({ width: 32, numSteps: 3 });
});

const refused = async (model: string): Promise<WaverError> => {
  await using ctx = await open();
  const error: unknown = await frames(model, ctx).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WaverError);
  return error as WaverError;
};

test("what lacks a part is told by that part", async () => {
  const [half, alone] = [join(scratch, "half"), join(scratch, "alone/unet/wan_t2v.safetensors")];
  cpSync(authors, half, { recursive: true });
  rmSync(join(half, "Wan2.1_VAE.pth"));
  expect((await refused(half)).message).toContain("without Wan2.1_VAE.pth");
  rmSync(join(half, "google"), { recursive: true });
  expect((await refused(half)).message).toContain("without its tokenizer, google/umt5-xxl/");
  mkdirSync(dirname(alone), { recursive: true });
  cpSync(join(authors, "diffusion_pytorch_model.safetensors"), alone);
  expect((await refused(alone)).message).toContain("an umT5 in bf16 or fp16");
  expect((await refused(join(diffusers, "vae"))).hint).toContain("in one that an installed plugin knows");
});
