/** The refiner's degradations, its training pair, and the direction of its integration. */
import { scope, type Tensor, tensor } from "../../../native/index.ts";
import { degradeLatents, degradePixels, refinerInput } from "../../../plugins/stage-refine/degrade.ts";
import { defineCase } from "../case.ts";

export default defineCase({
  cases: ["train_refiner_degradation"],
  run(golden, produce) {
    const given = (name: string): Tensor => {
      const { shape, data } = golden.input(name);
      return tensor(Float32Array.from(data)).reshape([...shape]);
    };
    scope(() => {
      const perSample = (name: string): Tensor => given(name).reshape([-1, 1, 1, 1, 1]);
      const x0 = given("x0");
      const xn = degradeLatents(given("x_pixel_degraded_latent"), given("noise"), perSample("w_d"));
      produce("x_n", xn);
      produce("x_input", refinerInput(x0, xn, perSample("w")));
      produce("x_target", x0.sub(xn));

      for (const [name, filter] of [
        ["bicubic_antialias", "bicubic"],
        ["bilinear_antialias", "bilinear"],
        ["area_then_bilinear", "area"],
      ] as const) {
        const { down, up } = degradePixels(given("pixels"), 3, filter);
        produce(`pixel.${name}.down`, down);
        produce(`pixel.${name}.up`, up);
      }

      const schedule = Array.from(golden.reference("euler_w_schedule").data);
      produce("euler_w_schedule", {
        shape: [schedule.length],
        data: schedule.map((_, k) => 1 - k / (schedule.length - 1)),
      });
      let x = xn;
      const states = schedule.slice(0, -1).map((w, k) => {
        x = x.add(
          given("A")
            .mul(x.tanh())
            .sub(x.mul(w))
            .mul(w - schedule[k + 1]!),
        );
        return x;
      });
      produce("euler_trajectory", {
        shape: [states.length, ...x0.shape],
        data: states.flatMap((state) => state.toNumbers()),
      });
    });
  },
});
