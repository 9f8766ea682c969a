/** A VideoLLaMA3 checkpoint as a captioner: a clip's frames with their times. */
import { joinedImages, type Placement } from "../../native/index.ts";
import { Captioner, wrongMarks } from "../captioner.ts";
import { loadModel } from "./checkpoint.ts";
import type { Visual } from "./model.ts";
import { readConfig, readVideoProcessor } from "./params.ts";
import { markedFrames, prepareVideo } from "./video.ts";

export function openCaptioner(folder: string, placement: Placement): Captioner<Visual> {
  const [config, processor] = [readConfig(folder), readVideoProcessor(folder)];
  return new Captioner<Visual>(folder, () => ({
    model: loadModel(folder, placement),
    maxPositions: config.text.max_position_embeddings,
    show(frames, start, { instruction, tokenizer, template }) {
      const { patches, grid, kept } = prepareVideo(joinedImages(frames), processor);
      const times = frames.map(({ times }) => (times[0] as number) - start);
      const text = template.render([
        { role: "user", content: [{ type: "video" }, { type: "text", text: instruction }] },
      ]);
      const mark = tokenizer.decode([config.video_token_id], { special: true });
      const parts = text.split(mark);
      if (parts.length !== 2) throw wrongMarks(parts.length - 1, "VideoLLaMA3");
      return {
        ids: tokenizer.encode(parts.join(markedFrames(mark, times, kept)), { around: false }),
        visual: { kind: "video", patches, grid, merge: processor.merge_size, kept },
      };
    },
  }));
}
