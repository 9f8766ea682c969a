/** Captions and rewritten prompts from a model behind an OpenAI-compatible endpoint. Frames leave this machine only when one is configured. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";
import type { Endpoint } from "./chat.ts";

const config = z.strictObject({
  endpoint: z
    .strictObject({
      url: z.url().meta({ description: "base address, as in http://localhost:8000/v1" }),
      model: z.string(),
      key: z.string().optional().meta({ description: "sent as a bearer token" }),
    })
    .optional(),
});

const asking = {
  timeout: z.number().positive().default(120).meta({ description: "seconds for one answer" }),
  retries: z.int().nonnegative().default(4),
  cache: z
    .string()
    .optional()
    .meta({ description: "folder of answers, kept between jobs; the job's own when absent", format: "path" }),
};
/** An answer, or the longest pause between two attempts. */
const patience = ({ timeout }: { timeout: number }): number => Math.max(timeout, 60) + 30;

const options = z.strictObject({
  instruction: z
    .string()
    .default(
      "Describe this video clip in one paragraph: subjects, their actions in order, background, camera motion, style and spatial relations. Say only what can be seen.",
    )
    .meta({ description: "what the model is asked (Waver 3.3 lists what a caption covers)" }),
  maxFrames: z.int().min(1).max(64).default(8).meta({ description: "frames sent, spread over the clip" }),
  maxTokens: z.int().positive().default(400),
  temperature: z.number().min(0).max(2).default(0.2),
  ...asking,
});

let endpoint: Endpoint | undefined;

export default definePlugin({
  name: "endpoint",
  version: "0.1.0",
  hookApi: "0.1",
  config,
  provides: [
    provide("caption", {
      id: "endpoint",
      summary: "captions from any OpenAI-compatible endpoint with image input",
      source: "Waver 3.3 (captions cover actions, subjects, background, camera, style, space)",
      runs: "worker",
      options,
      // Two frames a second show what happens; 448 is a multiple of the patch sizes (14, 28) of common vision towers.
      traits: { view: { width: 448, height: 336, fit: "cover", rate: 2, format: "rgb24", batch: 4 } },
      patience,
      async run(input, { options, ctx }) {
        const { captionFrom } = await import("./caption.ts");
        return captionFrom(input, endpoint, options, ctx);
      },
    }),
    provide("rewrite", {
      id: "endpoint",
      summary: "rewrites a prompt in the manner of training captions, by any OpenAI-compatible endpoint",
      source: "Waver 4.6 (two instructions, for 5 and 10 seconds, with examples of training captions)",
      runs: "worker",
      options: z.strictObject({
        instruction: z
          .string()
          .optional()
          .meta({ description: "instead of the two built in, for 5 and for 10 seconds" }),
        maxTokens: z.int().positive().default(400),
        temperature: z.number().min(0).max(2).default(0.7),
        ...asking,
      }),
      traits: {},
      patience,
      async run(prompt, { options, ctx }) {
        const { rewrittenBy } = await import("./rewrite.ts");
        return rewrittenBy(prompt, endpoint, options, ctx);
      },
    }),
  ],
  async setup({ config }) {
    endpoint = config.endpoint;
    return undefined;
  },
});
