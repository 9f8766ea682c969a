/** Keeps the clips that pass every rule up to a stage of a funnel (Waver 3.5). Thresholds are the recipe's, never this plugin's. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";
import { Recipe } from "./recipe.ts";

const options = z.strictObject({
  // No default: it would be filled in before an operation that has a recipe of its own sees the pick.
  recipe: Recipe.optional().meta({
    description: "stages and their rules, as in configs/curate; without one every clip is kept",
  }),
  stage: z.string().optional().meta({ description: "stage that the set is for; the recipe's last when absent" }),
});

export default definePlugin({
  name: "select-funnel",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("select", {
      id: "funnel",
      summary: "drops clips by the rules of a funnel recipe, and says which rule and why",
      source: "Waver 3.5, hierarchical data filtering",
      runs: "worker",
      options,
      traits: {},
      async run(relation, { options, ctx }) {
        const { funnel } = await import("./funnel.ts");
        return funnel(relation, options, ctx);
      },
    }),
  ],
});
