/** RAFT, small and large: encoders and flow after each update. */
import { scope } from "../../../native/index.ts";
import { loadRaft } from "../../../plugins/raft/checkpoint.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

export default defineCase({
  cases: ["raft_small", "raft_large"],
  run(golden, produce) {
    using model = loadRaft(golden.path(golden.params.checkpoint as string), "cpu");
    scope(() => {
      model.forward(toTensor(golden.input("image1")), toTensor(golden.input("image2")), {
        numUpdates: golden.params.num_flow_updates as number,
        everyFlow: true,
        tap: (name, value) => produce(name.startsWith("flow.") ? name : `tap.${name}`, value),
      });
    });
  },
});
