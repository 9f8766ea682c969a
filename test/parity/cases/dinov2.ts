/** DINOv2 with and without registers, at its own size and at another. */
import { scope } from "../../../native/index.ts";
import { loadDinov2 } from "../../../plugins/dinov2/checkpoint.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

export default defineCase({
  cases: ["dinov2", "dinov2_with_registers"],
  run(golden, produce) {
    using model = loadDinov2(golden.path(golden.params.checkpoint as string), { device: "cpu" }).model;
    for (const input of golden.inputs.filter((name) => name.endsWith(".pixel_values"))) {
      const group = input.slice(0, -".pixel_values".length);
      scope(() => {
        const states = model.forward(toTensor(golden.input(input)), {
          tap: (name, value) => produce(`${group}.${name}`, value),
        });
        produce(`${group}.last_hidden_state`, states);
        produce(`${group}.pooler_output`, model.pool(states));
      });
    }
  },
});
