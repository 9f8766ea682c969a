/** Qwen2.5-VL: the processor, the vision tower with its taps, positions in three axes, logits and greedy generation. */
import { type PatchGrid, patchify, scope, type Tensor, tensor } from "../../../native/index.ts";
import { loadModel } from "../../../plugins/qwen2.5-vl/checkpoint.ts";
import { type Visual, type VisualPrompt, visualPositions } from "../../../plugins/qwen2.5-vl/model.ts";
import { readConfig, readProcessor } from "../../../plugins/qwen2.5-vl/params.ts";
import { defineCase, type Produce } from "../case.ts";
import { continueRows, rowsOf } from "../generation.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

function processor(golden: Golden, produce: Produce): void {
  const config = readProcessor(golden.path("processor"));
  const { shape, data } = golden.input("image_u8");
  const [height, width] = shape as [number, number];
  scope(() => {
    const pixels = tensor(Uint8Array.from(data)).view([1, height, width, 3]).permute([0, 3, 1, 2]);
    const { patches, grid } = patchify(pixels, config);
    produce("processor.pixel_values", patches);
    produce("processor.image_grid_thw", { shape: [1, 3], data: [...grid] });
  });
}

function model(golden: Golden, produce: Produce): void {
  const folder = golden.path(golden.params.checkpoint as string);
  const config = readConfig(folder);
  using model = loadModel(folder, { device: "cpu" });
  scope(() => {
    const image = visual(golden, "image", toTensor(golden.input("pixel_values")));
    const video = visual(golden, "video", toTensor(golden.input("pixel_values_videos")));
    for (const { kind, patches, grid } of [image, video])
      model.visual.forward(patches, grid, (name, value) => produce(`vision.${kind}.${name}`, value));
    const [ids] = rowsOf(golden.input("input_ids"), golden.input("attention_mask")) as [number[]];
    const first = ids.findIndex((id) => id === config.image_token_id || id === config.video_token_id);
    const prompt: VisualPrompt = {
      ids,
      visuals: ids[first] === config.image_token_id ? [image, video] : [video, image],
    };
    const axes = visualPositions(prompt, config);
    produce("rope.position_ids", { shape: [3, 1, ids.length], data: axes.flat() });
    produce("rope.delta", { shape: [1, 1], data: [Math.max(...axes.flat()) + 1 - ids.length] });
    produce(
      "forward.logits",
      model.forward([prompt], (name, value) => produce(`forward.${name}`, value)),
    );
    const [text] = rowsOf(golden.input("text_only.input_ids"), golden.input("text_only.attention_mask")) as [number[]];
    produce("text_only.logits", model.forward([{ ids: text, visuals: [] }]));
    const maxTokens = golden.reference("generate.step_logits").shape[1] as number;
    continueRows(golden, produce, [ids], (observe) => model.generate([prompt], { maxTokens, observe }));
  });
}

function visual(golden: Golden, kind: "image" | "video", patches: Tensor): Visual {
  const grid = Array.from(golden.input(`${kind}_grid_thw`).data) as unknown as PatchGrid;
  const seconds = kind === "video" ? golden.input("second_per_grid_ts").data[0] : undefined;
  return { kind, patches, grid, seconds };
}

export default defineCase({
  cases: ["qwen2_5_vl"],
  run(golden, produce) {
    processor(golden, produce);
    model(golden, produce);
  },
});
