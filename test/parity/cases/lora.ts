/** LoRA on the Wan DiT: beside the weights at full and at another strength, made part of them, and without its metadata. */
import { scope } from "../../../native/index.ts";
import { LoraFile } from "../../../plugins/lora/file.ts";
import { originalLayer, WanCheckpoint } from "../../../plugins/wan/checkpoint.ts";
import { WanTransformer } from "../../../plugins/wan/model.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

export default defineCase({
  cases: ["lora_wan_t2v"],
  run(golden, produce) {
    using weights = new WanCheckpoint(golden.path(golden.params.checkpoint as string));
    using model = new WanTransformer(weights.config).load(weights);
    using lora = LoraFile.open(golden.path(golden.params.lora as string), "cpu");
    using bare = LoraFile.open(golden.path("lora_no_metadata"), "cpu");
    const network = { module: model, aliases: (layer: string) => [originalLayer(layer)] };
    const run = (name: string): void =>
      scope(() => {
        const [latents, timestep, text] = ["hidden_states", "timestep", "encoder_hidden_states"].map((each) =>
          toTensor(golden.input(each)),
        ) as [ReturnType<typeof toTensor>, ReturnType<typeof toTensor>, ReturnType<typeof toTensor>];
        produce(`${name}.sample`, model.forward({ latents, timestep, text }));
      });
    run("base");
    lora.on(network).during(1, () => run("lora"));
    lora.on(network).during(golden.params.adapter_weight as number, () => run("lora_weighted"));
    bare.on(network).during(1, () => run("lora_no_metadata"));
    const adapter = lora.on(network);
    scope(() => {
      for (const [name, weight] of model.namedParameters()) {
        const fused = adapter.fused(name, weight, 1);
        if (fused !== undefined) weight.copy_(fused);
      }
    });
    run("lora_fused");
  },
});
