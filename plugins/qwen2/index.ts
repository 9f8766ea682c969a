/** Qwen2.5: the second text encoder of Waver, and a model that rewrites prompts on this machine. */
import { definePlugin, provide, WaverError, WEIGHTS, WeightForm, z } from "../index.ts";
import { writingOptions } from "../language.ts";
import { MAX_TOKENS } from "./params.ts";

const config = z.strictObject({
  rewriter: z
    .string()
    .optional()
    .meta({ description: "folder of the chat model that rewrites prompts, when the request names none" }),
});

const dtype = z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent");

let rewriter: string | undefined;

function modelOf(path: string | undefined): string {
  const folder = path ?? rewriter;
  if (folder === undefined)
    throw new WaverError("needs_unmet", "no model for rewriting prompts is configured", {
      hint: "give path (rewrite.path), or `rewriter` in the configuration of plugin qwen2: the folder of a Qwen2.5-Instruct or SmolLM2-Instruct checkpoint",
    });
  return folder;
}

export default definePlugin({
  name: "qwen2",
  version: "0.1.0",
  hookApi: "0.1",
  config,
  provides: [
    provide("encodeText", {
      id: "qwen2",
      summary: "states of a Qwen2 or Qwen2.5 decoder after its last norm",
      source: "QwenTeam 2024, arXiv 2412.15115; Waver 2.1",
      runs: "device",
      options: z.strictObject({
        path: z.string().describe("folder with config.json and weights, for instance MODEL/text_encoder_2"),
        tokenizer: z.string().optional().describe("folder with tokenizer.json; beside the model when absent"),
        dtype,
        weights: WeightForm.optional().describe(WEIGHTS),
        offload: z
          .boolean()
          .optional()
          .describe("weights of the layers are on the device around their turns only, for networks larger than it"),
        maxTokens: z.int().positive().default(MAX_TOKENS).describe("longer prompts are cut"),
      }),
      traits: { classes: ["Qwen2ForCausalLM", "Qwen2Model"] },
      outlines: true,
      async bytes({ path, dtype, weights, offload }) {
        const { loadDecoder, offloadedDecoderBytes, weightBytes } = await import("./checkpoint.ts");
        if (weights !== undefined) {
          using shapes = loadDecoder(path, { dtype, weights, offload, device: "meta" });
          return shapes.loadedBytes();
        }
        return offload === true ? offloadedDecoderBytes(path, dtype) : weightBytes(path, { head: false }, dtype);
      },
      async load({ path, ...settings }, ctx) {
        const { QwenTextEncoder } = await import("./encoder.ts");
        return QwenTextEncoder.load(path, { ...settings, device: ctx.device });
      },
      run: async (_input, { state }) => state,
    }),
    provide("rewrite", {
      id: "local",
      summary: "rewrites a prompt in the manner of training captions, by a chat model on this machine",
      source: "Waver 4.6 (two instructions, for 5 and 10 seconds, with examples of training captions)",
      runs: "device",
      options: z.strictObject({
        path: z.string().optional().describe("folder of a Qwen2 or Llama chat model, for instance Qwen2.5 or SmolLM2"),
        instruction: z.string().optional().describe("instead of the two built in, for 5 and for 10 seconds"),
        ...writingOptions,
        dtype,
        cache: z
          .string()
          .optional()
          .meta({ description: "folder of answers, kept between jobs; the job's own when absent", format: "path" }),
      }),
      traits: {},
      async bytes({ path, dtype }) {
        const { weightBytes } = await import("./checkpoint.ts");
        return weightBytes(modelOf(path), { head: true }, dtype);
      },
      async load({ path, dtype }, ctx) {
        const folder = modelOf(path);
        const { Rewriter } = await import("./rewrite.ts");
        return new Rewriter(folder, { device: ctx.device, dtype });
      },
      run: (prompt, { state, options, ctx }) => state.rewrite(prompt, options, ctx),
    }),
  ],
  async setup({ config }) {
    rewriter = config.rewriter;
    return undefined;
  },
});
