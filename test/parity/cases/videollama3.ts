/** VideoLLaMA3: the vision tower for an image and a video, logits and greedy generation with both. */
import { type PatchGrid, scope } from "../../../native/index.ts";
import { loadModel } from "../../../plugins/videollama3/checkpoint.ts";
import type { Visual, VisualPrompt } from "../../../plugins/videollama3/model.ts";
import { readConfig } from "../../../plugins/videollama3/params.ts";
import { defineCase } from "../case.ts";
import { continueRows, rowsOf } from "../generation.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

function visual(golden: Golden, kind: "image" | "video"): Visual {
  const patches = toTensor(golden.input(kind === "image" ? "pixel_values" : "pixel_values_videos"));
  const grid = Array.from(golden.input(`${kind}_grid_thw`).data) as unknown as PatchGrid;
  const merge = golden.input(`${kind}_merge_sizes`).data[0] as number;
  if (kind === "image") return { kind, patches, grid, merge };
  return { kind, patches, grid, merge, kept: Array.from(golden.input("video_compression_mask").data, Boolean) };
}

export default defineCase({
  cases: ["videollama3"],
  run(golden, produce) {
    const folder = golden.path(golden.params.checkpoint as string);
    const { image_token_id, video_token_id } = readConfig(folder);
    using model = loadModel(folder, { device: "cpu" });
    scope(() => {
      const visuals = [visual(golden, "image"), visual(golden, "video")];
      for (const { kind, patches, grid, merge } of visuals)
        produce(`vision.${kind}`, model.model.vision_model.forward(patches, grid, merge));
      const [ids] = rowsOf(golden.input("input_ids"), golden.input("attention_mask")) as [number[]];
      if (ids.indexOf(video_token_id) < ids.indexOf(image_token_id)) visuals.reverse();
      const prompt: VisualPrompt = { ids, visuals };
      produce("forward.logits", model.forward([prompt]));
      const maxTokens = golden.reference("generate.step_logits").shape[1] as number;
      continueRows(golden, produce, [ids], (observe) => model.generate([prompt], { maxTokens, observe }));
    });
  },
});
