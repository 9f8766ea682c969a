/** SigLIP: both towers and their logits. */
import { scope, unit } from "../../../native/index.ts";
import { loadSiglip } from "../../../plugins/siglip/checkpoint.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

export default defineCase({
  cases: ["siglip_model"],
  run(golden, produce) {
    using model = loadSiglip(golden.path(golden.params.checkpoint as string), { device: "cpu" }).model;
    const { vision_model, text_model } = model;
    scope(() => {
      const patches = vision_model.forward(toTensor(golden.input("main.pixel_values")), {
        tap: (name, value) => produce(`main.vision_model_output.${name}`, value),
      });
      produce("main.vision_model_output.last_hidden_state", patches);
      const images = vision_model.pool(patches);
      produce("main.vision_model_output.pooler_output", images);
      produce("main.image_embeds", unit(images));
      const ids = toTensor(golden.input("main.input_ids"), "int64");
      const mask = golden.has("main.attention_mask")
        ? toTensor(golden.input("main.attention_mask"), "int64")
        : undefined;
      const words = text_model.forward(ids, mask, (name, value) => produce(`main.text_model_output.${name}`, value));
      produce("main.text_model_output.last_hidden_state", words);
      const texts = text_model.pool(words);
      produce("main.text_model_output.pooler_output", texts);
      produce("main.text_embeds", unit(texts));
      const logits = model.logits(texts, images);
      produce("main.logits_per_text", logits);
      produce("main.logits_per_image", logits.transpose(0, 1));
    });
  },
});
