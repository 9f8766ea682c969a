/** `generate --graph` on a CPU, where a recording is a call: everything but the replay itself runs. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { liveTensors, setThreads } from "../../native/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "cache-first-block", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const request = {
  model,
  prompt: "a ball",
  width: 32,
  height: 32,
  numFrames: 5,
  numSteps: 3,
  maxTokens: 16,
  minPsnr: 0,
};

async function digests(more: Record<string, unknown>): Promise<string[]> {
  await using ctx = await testContext({ plugins });
  const output = (await runOperation(generate, { ...request, ...more }, ctx)) as { items: { digest: string }[] };
  return output.items.map(({ digest }) => digest);
}

test("the files are the same, batch after batch, and nothing is held when the job ends", async () => {
  for (const dtype of ["float32", "bfloat16"]) {
    const two = { prompt: ["a ball", "a cat"], dtype };
    const plain = await digests(two);
    const alive = liveTensors();
    expect(await digests({ ...two, graph: true })).toEqual(plain);
    expect(liveTensors()).toBe(alive);
  }
});

test("what a recorded pass excludes is said", async () => {
  await expect(digests({ graph: true, ranks: 2 })).rejects.toThrow("what ranks tell each other");
  await expect(digests({ graph: true, offload: "blocks" })).rejects.toThrow("weights that come and go cannot be part");
  await expect(digests({ graph: true, cache: { id: "first-block" } })).rejects.toThrow("a cache decides anew");
});
