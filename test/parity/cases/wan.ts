/** The Wan DiT: text to video, image to video, first and last frame, a time for each token, and in bfloat16. */
import { packLinears, scope } from "../../../native/index.ts";
import { WanCheckpoint } from "../../../plugins/wan/checkpoint.ts";
import { WanTransformer } from "../../../plugins/wan/model.ts";
import { keepsFloat32 } from "../../../plugins/wan/params.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

export default defineCase({
  cases: ["wan_t2v_transformer", "wan_i2v_transformer", "wan_flf2v_transformer", "wan22_per_token_t_transformer"],
  run(golden, produce) {
    using weights = new WanCheckpoint(golden.path(golden.params.checkpoint as string));
    const run = (model: WanTransformer, inputs: string, outputs: string): void =>
      scope(() => {
        const input = (name: string) => toTensor(golden.input(`${inputs}.${name}`));
        const image = golden.has(`${inputs}.encoder_hidden_states_image`)
          ? input("encoder_hidden_states_image")
          : undefined;
        const sample = model.forward(
          { latents: input("hidden_states"), timestep: input("timestep"), text: input("encoder_hidden_states"), image },
          (name, value) => produce(`${outputs}.tap.${name}`, value()),
        );
        produce(`${outputs}.sample`, sample);
      });
    using model = new WanTransformer(weights.config).load(weights);
    for (const group of new Set(golden.inputs.map((name) => name.slice(0, name.lastIndexOf(".")))))
      run(model, group, group);
    if (!golden.tolerance.has("bf16.sample")) return;
    using half = new WanTransformer(weights.config).load(weights, {
      dtype: (name) => (keepsFloat32(name) ? "float32" : "bfloat16"),
    });
    half.blocks.forEach(packLinears); // as the denoiser does on a CPU
    run(half, "main", "bf16");
  },
});
