/** CLIP: the vision tower with and without projection, and both towers together. */
import { scope, type Tensor, unit } from "../../../native/index.ts";
import { loadClip, loadVision } from "../../../plugins/clip/checkpoint.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

function vision(golden: Golden, produce: Produce): void {
  using model = loadVision(golden.path(golden.params.checkpoint as string), { device: "cpu" }).model;
  scope(() => {
    const pixels = toTensor(golden.input("main.pixel_values"));
    const tap = (name: string, value: Tensor): void => produce(`main.${name}`, value);
    const states = model.vision_model.forward(pixels, { tap });
    produce("main.last_hidden_state", states);
    const pooled = model.vision_model.pool(states);
    produce("main.pooler_output", pooled);
    if (model.visual_projection !== undefined) produce("main.image_embeds", model.visual_projection.forward(pooled));
  });
}

function whole(golden: Golden, produce: Produce): void {
  using model = loadClip(golden.path(golden.params.checkpoint as string), { device: "cpu" }).model;
  scope(() => {
    const states = model.vision_model.forward(toTensor(golden.input("main.pixel_values")), {
      tap: (name, value) => produce(`main.vision_model_output.${name}`, value),
    });
    produce("main.vision_model_output.last_hidden_state", states);
    // Transformers 5 puts the projection's output where the pooled token was
    const images = model.visual_projection.forward(model.vision_model.pool(states));
    produce("main.vision_model_output.pooler_output", images);
    produce("main.image_embeds", unit(images));
    const ids = toTensor(golden.input("main.input_ids"), "int64");
    const mask = toTensor(golden.input("main.attention_mask"), "int64");
    const texts = model.embedTexts(ids, mask, (name, value) => produce(`main.text_model_output.${name}`, value));
    produce("main.text_model_output.pooler_output", texts);
    produce("main.text_embeds", unit(texts));
    const logits = model.logits(texts, images);
    produce("main.logits_per_text", logits);
    produce("main.logits_per_image", logits.transpose(0, 1));
  });
}

export default defineCase({
  cases: ["clip_vision", "clip_vision_projection", "clip_model"],
  run: (golden, produce) => (golden.name.startsWith("clip_model") ? whole(golden, produce) : vision(golden, produce)),
});
