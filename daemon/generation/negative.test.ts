import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setThreads } from "../../native/index.ts";
import wan from "../../plugins/wan/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "prompt-tags", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "negative-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** The recipe that a generated file carries. */
async function recipeOf(more: Record<string, unknown>): Promise<Record<string, unknown>> {
  await using ctx = await testContext({ plugins });
  const small = { model, prompt: "a ball", width: 16, height: 16, numFrames: 5, numSteps: 1, maxTokens: 64 };
  const { items } = (await runOperation(generate, { ...small, ...more }, ctx)) as { items: [{ path: string }] };
  return (await ctx.media.readMetadata(items[0].path)) ?? {};
}
/** The pipeline with a word of its own. */
function saying(negativePrompt: string): string {
  const folder = mkdtempSync(join(scratch, "model-"));
  cpSync(model, folder, { recursive: true });
  const path = join(folder, "model_index.json");
  const index = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  rmSync(path);
  writeFileSync(path, JSON.stringify({ ...index, _waver: { negativePrompt } }));
  return folder;
}

test("what guidance points away from: the request's word, else the model's, else its family's", async () => {
  const [family] = wan.provides.map(({ provider }) => (provider.traits as { negativePrompt: string }).negativePrompt);
  expect(family).toContain("最差质量");
  expect(await recipeOf({})).toMatchObject({ negativePrompt: family });
  expect(await recipeOf({ model: saying("blurred") })).toMatchObject({ negativePrompt: "blurred" });
  expect(await recipeOf({ model: saying("") })).toMatchObject({ negativePrompt: "" });
  expect(await recipeOf({ negativePrompt: "text" })).toMatchObject({ negativePrompt: "text" });
});

test("tags go around the prompt and into whatever negative prompt there is", async () => {
  const rewrite = [{ id: "tags", style: "cg" }];
  expect(await recipeOf({ rewrite, negativePrompt: "text" })).toMatchObject({
    prompt: "Computer-generated imagery. a ball. high definition, fast motion.",
    negativePrompt: "text, low definition, slow motion",
  });
});
