/** A Qwen2.5-VL checkpoint as a captioner: a clip's frames as one video. */
import { joinedImages, type Placement, patchify } from "../../native/index.ts";
import { Captioner, wrongMarks } from "../captioner.ts";
import type { FrameBatch } from "../index.ts";
import { loadModel } from "./checkpoint.ts";
import type { Visual } from "./model.ts";
import { readConfig, readProcessor, type VLConfig } from "./params.ts";

export function openCaptioner(folder: string, placement: Placement): Captioner<Visual> {
  const [config, processor] = [readConfig(folder), readProcessor(folder)];
  const { temporal_patch_size, merge_size } = processor;
  return new Captioner<Visual>(folder, () => ({
    model: loadModel(folder, placement),
    maxPositions: config.text.max_position_embeddings,
    show(frames, _start, { instruction, tokenizer, template }) {
      const kind = frames.length === 1 ? "image" : "video";
      const { patches, grid } = patchify(joinedImages(frames), processor);
      const seconds = temporal_patch_size * secondsApart(frames);
      const text = template.render([{ role: "user", content: [{ type: kind }, { type: "text", text: instruction }] }]);
      const count = (grid[0] * grid[1] * grid[2]) / merge_size ** 2;
      return {
        ids: expanded(tokenizer.encode(text, { around: false }), count, config),
        visual: { kind, patches, grid, seconds },
      };
    },
  }));
}

/** The template writes one mark for the clip; the model wants one for each of its tokens. */
function expanded(ids: readonly number[], count: number, { image_token_id, video_token_id }: VLConfig): number[] {
  const marks = ids.filter((id) => id === image_token_id || id === video_token_id);
  if (marks.length !== 1) throw wrongMarks(marks.length, "Qwen2.5-VL");
  return ids.flatMap((id) => (id === marks[0] ? new Array<number>(count).fill(id) : [id]));
}

/** Seconds from one frame to the next; to the millisecond, for positions are cut to whole numbers. */
function secondsApart(frames: readonly FrameBatch[]): number {
  const times = frames.map(({ times }) => times[0] as number);
  if (times.length < 2) return 0;
  return Math.round((1000 * ((times.at(-1) as number) - (times[0] as number))) / (times.length - 1)) / 1000;
}
