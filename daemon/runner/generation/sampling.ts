/** What sampler and guides hold: they run on latents without data, around a network that gives nothing but its shape. */
import {
  empty,
  itemSize,
  noGrad,
  outlinedBytes,
  outlinedPeakBytes,
  resetOutlinedPeakBytes,
  type Tensor,
} from "../../../native/index.ts";
import type { Guide, SampleRequest, Used } from "../../../plugins/index.ts";

export interface SamplingBytes {
  /** During a pass, beside the latents that go into it. */
  readonly besidePass: number;
  /** Most between two passes, latents included. */
  readonly betweenPasses: number;
}

export async function samplingBytes(
  sample: Used<"sample">,
  guideAt: (t: number) => Guide,
  { shape, ...how }: Pick<SampleRequest, "numSteps" | "shift" | "convention" | "signal"> & { shape: readonly number[] },
): Promise<SamplingBytes> {
  const bytesOf = (x: Tensor): number => x.numel * itemSize(x.dtype);
  using latents = empty([...shape], { device: "meta" }); // the job keeps the noise it starts from
  // From step to step, each of which is one stretch of computing: what else is planned meanwhile does not count.
  let [kept, entered, besidePass, betweenPasses] = [0, 0, 0, 0];
  using _done = await sample({
    ...how,
    latents,
    predict: (x, t, at) =>
      noGrad(() => {
        entered = outlinedBytes() - bytesOf(t);
        resetOutlinedPeakBytes();
        return guideAt(at.t)({
          ...at,
          latents: x,
          predict() {
            besidePass = Math.max(besidePass, kept + outlinedBytes() - entered);
            return empty(x.shape, { device: "meta" });
          },
        });
      }),
    async onStep() {
      betweenPasses = Math.max(betweenPasses, kept + outlinedPeakBytes() - entered);
      kept += outlinedBytes() - entered;
    },
  });
  const own = bytesOf(latents);
  return { besidePass: own + besidePass, betweenPasses: 2 * own + betweenPasses };
}
