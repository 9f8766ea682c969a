/** A look at a sample on its way: what the network takes the result to be, one small frame of it, decoded now and then. */
import { avgPool3d, keep, noGrad, scope, type Tensor } from "../../../native/index.ts";
import type { Codec, FlowConvention, SampleRequest } from "../../../plugins/index.ts";

/** Before this nobody has waited long enough to want one. */
export const FIRST_MS = 1000;
/** Decoding previews may take a twentieth of the time of a job, no more. */
const SHARE = 20;
/** Rows and columns of latents beyond which they are averaged down: 64 of them are 512 pixels. */
const MOST = 64;

/** Packed RGB. */
export interface Picture {
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly height: number;
}

export class Preview implements Disposable {
  readonly #convention: FlowConvention;
  readonly #now: () => number;
  readonly #startedAt: number;
  #spent = 0;
  #last: number;
  #guess: Tensor | undefined;

  constructor(convention: FlowConvention, now: () => number = () => performance.now()) {
    this.#convention = convention;
    this.#now = now;
    this.#startedAt = this.#last = now();
  }

  get #isDue(): boolean {
    const at = this.#now();
    return at - this.#last >= FIRST_MS && this.#spent * SHARE <= at - this.#startedAt;
  }

  /** A guess waits to be taken. */
  get isReady(): boolean {
    return this.#guess !== undefined;
  }

  /** A network whose predictions are looked at when a preview is due. */
  watching(predict: SampleRequest["predict"]): SampleRequest["predict"] {
    return (latents, t, at) => {
      const prediction = predict(latents, t, at);
      if (this.#isDue) this.#remember(latents, prediction, at.t);
      return prediction;
    };
  }

  /** x0 of the middle frame of the first row, [1 C 1 h w]: x - t v, or x + t p where the prediction points to the data. */
  #remember(latents: Tensor, prediction: Tensor, t: number): void {
    const sign = this.#convention.predicts === "noise-data" ? -1 : 1;
    const middle = Math.floor(latents.size(2) / 2);
    const one = (x: Tensor): Tensor => x.narrow(0, 0, 1).narrow(2, middle, 1).float();
    this.#guess?.dispose();
    this.#guess = keep(scope(() => one(latents).add(one(prediction).mul(sign * t))));
  }

  /** The frame last remembered, decoded as if it were a clip of its own; undefined when none waits. */
  take(codec: Pick<Codec, "decode">): Picture | undefined {
    if (this.#guess === undefined) return undefined;
    const startedAt = this.#now();
    using guess = this.#guess;
    this.#guess = undefined;
    const picture = noGrad(() => scope(() => picturesque(codec.decode(smaller(guess)))));
    this.#last = this.#now();
    this.#spent += this.#last - startedAt;
    return picture;
  }

  [Symbol.dispose](): void {
    this.#guess?.dispose();
    this.#guess = undefined;
  }
}

export function smaller(latents: Tensor): Tensor {
  const factor = Math.ceil(Math.max(latents.size(3), latents.size(4)) / MOST);
  return factor === 1 ? latents : avgPool3d(latents, [1, factor, factor]);
}

/** video [1 3 1 H W] in [-1, 1] -> packed RGB. */
function picturesque(video: Tensor): Picture {
  const [, , , height, width] = video.shape as [number, number, number, number, number];
  const pixels = pixelsOf(video.to({ dtype: "float32", device: "cpu" })).toArray() as Uint8Array;
  return { pixels, width, height };
}

/** video [1 3 1 H W] in [-1, 1], float32 -> [H W 3], bytes. A prediction that is no number ends the job by its own guard; until then it is grey. */
export const pixelsOf = (video: Tensor): Tensor =>
  video
    .select(0, 0)
    .select(1, 0)
    .permute([1, 2, 0])
    .nanToNum(0)
    .div(2)
    .add(0.5)
    .clamp(0, 1)
    .mul(255)
    .round()
    .to("uint8")
    .contiguous();
