/** The text encoders of Waver (flan-T5) and Wan (umT5). */
import { definePlugin, provide, WaverError, WEIGHTS, WeightForm, z } from "../index.ts";
import { T5Config } from "./params.ts";

/** `maxTokens` by model: Waver cuts T5 at 256 tokens (waver.md), Wan umT5 at 512. */
const options = (maxTokens: number) =>
  z.strictObject({
    path: z
      .string()
      .optional()
      .describe(
        "folder with config.json and weights, for instance MODEL/text_encoder, or a file with the names of Wan's authors",
      ),
    config: T5Config.optional().describe("an encoder with fresh weights instead, to be trained; needs a tokenizer"),
    seed: z.int().nonnegative().default(0).describe("of fresh weights"),
    tokenizer: z.string().optional().describe("folder with tokenizer.json; beside the encoder when absent"),
    dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
    weights: WeightForm.optional().describe(WEIGHTS),
    offload: z
      .boolean()
      .optional()
      .describe("weights of the blocks are on the device around their turns only, for networks larger than it"),
    maxTokens: z.int().positive().default(maxTokens).describe("longer prompts are cut"),
    clean: z
      .boolean()
      .default(true)
      .describe("repair text, undo HTML escapes, squeeze blanks, as the Wan pipeline does"),
  });

const encoder = (id: string, summary: string, source: string, classes: string[], maxTokens: number) =>
  provide("encodeText", {
    id,
    summary,
    source,
    runs: "device",
    options: options(maxTokens),
    traits: { classes },
    outlines: true,
    async bytes({ path, config, ...how }) {
      const { freshBytes, weightBytes } = await import("./encoder.ts");
      return config === undefined ? weightBytes(given(path), how) : freshBytes(config);
    },
    async load({ path, config, seed, ...settings }, ctx) {
      const { T5TextEncoder } = await import("./encoder.ts");
      if (config !== undefined) return T5TextEncoder.fresh(config, seed, { ...settings, device: ctx.device });
      return T5TextEncoder.load(given(path), { ...settings, device: ctx.device });
    },
    run: async (_input, { state }) => state,
  });

function given(path: string | undefined): string {
  if (path === undefined)
    throw new WaverError("invalid_input", "a T5 encoder needs a path, or a config for fresh weights");
  return path;
}

export default definePlugin({
  name: "t5",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    encoder("umt5", "umT5 encoder, many languages", "Chung et al. 2023; Wan 4.2", ["UMT5EncoderModel"], 512),
    encoder("flan-t5", "flan-T5 encoder", "Chung et al. 2022; Waver 2.1", ["T5EncoderModel"], 256),
  ],
});
