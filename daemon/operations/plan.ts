/** What a job would take, before it is spent: memory, arithmetic and time by stage, from shapes alone. */
import { defineOperation } from "../../plugins/index.ts";
import { Plan } from "../generation/figures.ts";
import { openPipeline } from "../generation/pipeline.ts";
import { planGenerate } from "../generation/plan.ts";
import { GenerateInput } from "../generation/request.ts";
import { generateSlots } from "./generate.ts";

export const operations = {
  "plan-generate": defineOperation({
    kind: "query",
    summary: "predicts memory, FLOPs and time of a generation from shapes alone; no weights are read",
    runs: "device",
    input: GenerateInput,
    output: Plan,
    slots: generateSlots,
    examples: ['waver plan generate --model MODEL --prompt "a red ball" --width 1280 --height 720 --num-frames 81'],
    run: async (request, picks, ctx) =>
      planGenerate(request, picks, await openPipeline(request.model, request.component, ctx, { converts: false }), ctx),
  }),
};
