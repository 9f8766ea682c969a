/**
 * EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; the Lite form of the TPU repository: no squeeze-and-excitation,
 * ReLU6, stem and head not scaled), frozen, with every BatchNorm folded into the convolution before it.
 *
 * Axes: B images, C channels, H W rows and columns. Images are RGB in [-1, 1], as video is everywhere here; the
 * network's own input ((pixel - 127) / 128 of 0..255) is made inside. Any size works; the weights were trained at 224.
 * Gradients flow to the input, so the maps can be a perceptual term.
 */
import { conv2d, keep, linear, openSafetensors, pad, scope, type Tensor } from "../../native/index.ts";

/** Width of the pooled features. */
export const FEATURES = 1280;
/** Resident bytes: 4.65 M float32 numbers. */
export const BYTES = 18_700_000;

/** A row of the published table (efficientnet/lite/efficientnet_lite_builder.py): r repeats, k kernel, s stride, e expansion, i in, o out. */
const STAGES = [
  { repeats: 1, kernel: 3, stride: 1, expand: 1, output: 16 },
  { repeats: 2, kernel: 3, stride: 2, expand: 6, output: 24 },
  { repeats: 2, kernel: 5, stride: 2, expand: 6, output: 40 },
  { repeats: 3, kernel: 3, stride: 2, expand: 6, output: 80 },
  { repeats: 3, kernel: 5, stride: 1, expand: 6, output: 112 },
  { repeats: 4, kernel: 5, stride: 2, expand: 6, output: 192 },
  { repeats: 1, kernel: 3, stride: 1, expand: 6, output: 320 },
] as const;
/** Blocks whose outputs are `features`: the last of each resolution, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input. */
const TAPS = [0, 2, 4, 10, 15] as const;
const BATCH_NORM_EPS = 1e-3;

/** A convolution with its BatchNorm inside. */
interface Folded {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly stride: number;
  readonly groups: number;
}

interface Block {
  readonly expand: Folded | null;
  readonly depthwise: Folded;
  readonly project: Folded;
  readonly residual: boolean;
}

/** TensorFlow's "same": odd padding goes to the right and the bottom. x [B C H W] */
function same(x: Tensor, { weight, bias, stride, groups }: Folded): Tensor {
  const kernel = weight.size(2);
  const around = (size: number): [number, number] => {
    const total = Math.max(0, (Math.ceil(size / stride) - 1) * stride + kernel - size);
    return [total >> 1, total - (total >> 1)];
  };
  const [top, bottom] = around(x.size(2));
  const [left, right] = around(x.size(3));
  if (top === bottom && left === right) return conv2d(x, weight, bias, { stride, padding: [top, left], groups });
  return conv2d(pad(x, [left, right, top, bottom]), weight, bias, { stride, groups });
}

const relu6 = (x: Tensor): Tensor => x.clamp(0, 6);

export class EfficientNetLite0 implements Disposable {
  readonly #stem: Folded;
  readonly #blocks: readonly Block[];
  readonly #head: Folded;
  readonly #classifier: { readonly weight: Tensor; readonly bias: Tensor };

  /** @param path safetensors with the names of the published checkpoint. */
  constructor(path: string, device = "cpu") {
    using file = openSafetensors(path);
    const parts = scope(() => {
      const read = (name: string): Tensor => file.get(name);
      // w' = w g / sqrt(v + eps), b' = b - m g / sqrt(v + eps), in float64 so that folding costs no accuracy.
      const fold = (conv: string, norm: string, stride: number, depthwise: boolean): Folded => {
        const scale = read(`${norm}.weight`)
          .to("float64")
          .div(read(`${norm}.running_var`).to("float64").add(BATCH_NORM_EPS).sqrt());
        const weight = read(`${conv}.weight`)
          .to("float64")
          .mul(scale.reshape([-1, 1, 1, 1]));
        const bias = read(`${norm}.bias`)
          .to("float64")
          .sub(read(`${norm}.running_mean`).to("float64").mul(scale));
        const [w, b] = [weight, bias].map((t) => t.to("float32").to({ device })) as [Tensor, Tensor];
        return { weight: w, bias: b, stride, groups: depthwise ? w.size(0) : 1 };
      };
      const blocks: Block[] = [];
      let channels = 32;
      for (const stage of STAGES) {
        for (let i = 0; i < stage.repeats; i++) {
          const name = `_blocks.${blocks.length}`;
          const stride = i === 0 ? stage.stride : 1;
          blocks.push({
            expand: stage.expand === 1 ? null : fold(`${name}._expand_conv`, `${name}._bn0`, 1, false),
            depthwise: fold(`${name}._depthwise_conv`, `${name}._bn1`, stride, true),
            project: fold(`${name}._project_conv`, `${name}._bn2`, 1, false),
            residual: stride === 1 && channels === stage.output,
          });
          channels = stage.output;
        }
      }
      return {
        stem: fold("_conv_stem", "_bn0", 2, false),
        blocks,
        head: fold("_conv_head", "_bn1", 1, false),
        classifier: {
          weight: read("_fc.weight").to({ device, copy: true }),
          bias: read("_fc.bias").to({ device, copy: true }),
        },
      };
    });
    this.#stem = parts.stem;
    this.#blocks = parts.blocks;
    this.#head = parts.head;
    this.#classifier = parts.classifier;
    for (const tensor of this.#tensors()) keep(tensor);
  }

  /** Images [B 3 H W] -> five maps [B c h w] of 16, 24, 40, 112 and 320 channels, at 1/2 to 1/32 of the size. */
  features(images: Tensor): Tensor[] {
    return scope(() => {
      const maps: Tensor[] = [];
      this.#trunk(images, maps);
      return maps;
    });
  }

  /** Images [B 3 H W] -> pooled features [B 1280]. */
  embed(images: Tensor): Tensor {
    return scope(() => relu6(same(this.#trunk(images), this.#head)).mean([2, 3]));
  }

  /** Images [B 3 H W] -> ImageNet logits [B 1000]. */
  classify(images: Tensor): Tensor {
    return scope(() => linear(this.embed(images), this.#classifier.weight, this.#classifier.bias));
  }

  /** Images -> output of the last block; `maps` collects the taps. */
  #trunk(images: Tensor, maps?: Tensor[]): Tensor {
    // [-1, 1] -> 0..255 -> (pixel - 127) / 128
    let x = relu6(same(images.mul(127.5 / 128).add(0.5 / 128), this.#stem));
    this.#blocks.forEach(({ expand, depthwise, project, residual }, index) => {
      const wide = expand ? relu6(same(x, expand)) : x;
      const narrow = same(relu6(same(wide, depthwise)), project);
      x = residual ? narrow.add(x) : narrow;
      if ((TAPS as readonly number[]).includes(index)) maps?.push(x);
    });
    return x;
  }

  *#tensors(): Iterable<Tensor> {
    const folded = [
      this.#stem,
      this.#head,
      ...this.#blocks.flatMap((block) => [block.expand, block.depthwise, block.project]),
    ];
    for (const part of [...folded, this.#classifier]) if (part) yield* [part.weight, part.bias];
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#tensors()) tensor.dispose();
  }
}
