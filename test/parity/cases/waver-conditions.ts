/** Pixel-frame masks and known frames to I and Mask. */
import { cat, noGrad, scope, type Tensor, tensor } from "../../../native/index.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import { composed, conditions, conditionsFromLatents, foldMask } from "../../../plugins/waver/conditions.ts";
import { defineCase } from "../case.ts";

export default defineCase({
  cases: ["waver_conditions"],
  async run(golden, produce) {
    const given = (name: string): Tensor => {
      const { shape, data } = golden.input(name);
      return tensor(Float32Array.from(data)).reshape([...shape]);
    };
    await using vae = await WanVae.load(golden.path("vae"), { device: "cpu" });
    for (const run of Object.keys(golden.params["runs"] as object))
      scope(() =>
        noGrad(() => {
          const V = given(`${run}.V`);
          const known = given(`${run}.pixel_mask`);
          const hand = (I: Tensor, mask: Tensor): void => {
            produce(`${run}.Mask`, mask);
            produce(`${run}.I`, I);
            produce(`${run}.input`, cat([V, I, mask], 1));
          };
          if (run.startsWith("latent.")) {
            const mask = foldMask(known, V.size(-2), V.size(-1));
            hand(conditionsFromLatents(given(`${run}.known`), given("black_latent"), mask), mask);
          } else {
            const video = composed(given(`${run}.frames`), known);
            produce(`${run}.video`, video);
            produce(`${run}.vae_mean`, vae.posterior(video).mean);
            const { latents, mask } = conditions(given(`${run}.frames`), known, vae);
            hand(latents, mask);
          }
        }),
      );
  },
});
