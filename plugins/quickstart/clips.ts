/** Child job: the clips of a set as the network sees them, to be compared with what it makes. */
import { type Context, defineOperation, z } from "../index.ts";
import { CutClip } from "./cut.ts";

export const Shape = z.strictObject({
  width: z.int().positive(),
  height: z.int().positive(),
  frames: z.int().positive(),
  fps: z.number().positive(),
});

export const quickstartClips = defineOperation({
  kind: "job",
  summary: "quick start: cuts the clips of a set into short files, with their first frames",
  runs: "worker",
  input: z.strictObject({
    set: z.string().meta({ description: "folder of a set", format: "path" }),
    shape: Shape,
    output: z.string().meta({ format: "path" }),
  }),
  output: z.object({ clips: z.array(CutClip) }),
  slots: {},
  reads: ({ set }) => [set],
  writes: ({ clips }) => clips.flatMap(({ video, image }) => [video, image]),
  async run({ set, shape, output }, _picks, ctx: Context) {
    const { cutClip, readSet } = await import("./cut.ts");
    const rows = await readSet(set);
    const clips: CutClip[] = [];
    for (const [i, row] of rows.entries()) {
      clips.push(
        await ctx.unit(`clip/${row.id}`, CutClip, () =>
          cutClip(row, shape, output, String(i + 1).padStart(3, "0"), ctx),
        ),
      );
      ctx.progress(i + 1, rows.length, "clips");
      await ctx.breathe();
    }
    return { clips };
  },
});
