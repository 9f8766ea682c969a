/** Tags of style and quality around a prompt, as a model knows them from its training captions. */
import { definePlugin, provide, z } from "../index.ts";
import { STYLES, tagged } from "./tags.ts";

export default definePlugin({
  name: "prompt-tags",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("rewrite", {
      id: "tags",
      summary: "says the style before a prompt and the quality after it, and the wrong quality in the negative prompt",
      source: "Waver 4.5, Prompt tagging (the paper prints no tags: these words are ours)",
      runs: "worker",
      options: z.strictObject({
        style: z
          .string()
          .min(1)
          .optional()
          .describe(`put before the prompt: one of ${Object.keys(STYLES).join(", ")}, or words of your own`),
        quality: z.string().default("high definition, fast motion").describe("put after the prompt; empty for nothing"),
        avoid: z
          .string()
          .default("low definition, slow motion")
          .describe("put after the negative prompt; empty for nothing"),
      }),
      traits: {},
      run: async (prompt, { options }) => tagged(prompt, options),
    }),
  ],
});
