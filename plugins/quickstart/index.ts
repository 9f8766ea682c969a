/** The whole chain on a small model, from videos to a page that shows what came of it. Composes other operations only. */
import { defineOperation, definePlugin, z } from "../index.ts";
import { quickstartClips } from "./clips.ts";
import { quickstartSources } from "./sources.ts";

const VERSION = "0.1.0";
let hasEndpoint = false;

const quickstart = defineOperation({
  kind: "job",
  summary: "the main job, whole: videos in, a trained, sampled, refined and judged nano model and a report out",
  runs: "worker",
  input: z.strictObject({
    videos: z.string().optional().meta({
      description: "folder with videos of your own; rendered scenes and fetched real shots when absent",
      format: "path",
    }),
    captions: z
      .string()
      .optional()
      .meta({ description: "their captions, by file and time range (JSON, JSONL or CSV)", format: "path" }),
    output: z
      .string()
      .default("waver-quickstart")
      .meta({ description: "folder for everything that is made", format: "path" }),
    profile: z.enum(["full", "test"]).default("full").meta({
      description: "full: ten to fifteen minutes on two cores; test: two minutes, for nothing but the machinery",
    }),
    seed: z.int().nonnegative().default(1),
    steps: z.int().positive().optional().meta({ description: "training steps of the video stage, the longest one" }),
  }),
  output: z.object({
    report: z.string(),
    verdict: z.string(),
    sentences: z.array(z.string()),
    seconds: z.number(),
    workSeconds: z.number(),
    peakBytes: z.number(),
    steps: z.int(),
    reusedSteps: z.int(),
  }),
  slots: {},
  examples: ["waver quickstart", "waver quickstart --videos ~/films --captions captions.csv --output films-report"],
  async run(input, _picks, ctx) {
    const { runQuickstart } = await import("./run.ts");
    return runQuickstart({ ...input, hasEndpoint }, VERSION, ctx);
  },
});

export default definePlugin({
  name: "quickstart",
  version: VERSION,
  hookApi: "0.1",
  config: z.strictObject({
    endpoint: z
      .looseObject({})
      .optional()
      .meta({ description: "captions may be asked from it; the host fills this in when one is configured" }),
  }),
  provides: [],
  operations: { quickstart, "quickstart-sources": quickstartSources, "quickstart-clips": quickstartClips },
  async setup({ config }) {
    hasEndpoint = config.endpoint !== undefined;
    return undefined;
  },
});
