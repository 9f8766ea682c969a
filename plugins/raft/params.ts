/**
 * The shape of a RAFT (Teed & Deng 2020, arXiv 2003.12039), read off a checkpoint: torchvision stores weights without a
 * configuration, and every number but one follows from them.
 */
import type { TensorInfo } from "../../native/index.ts";
import { WaverError } from "../index.ts";

export interface EncoderShape {
  /** Channels after the first convolution, the three pairs of blocks, and the last convolution. */
  readonly layers: readonly [number, number, number, number, number];
  readonly block: "residual" | "bottleneck";
  readonly norm: "instance" | "batch" | "none";
}

export interface RaftShape {
  readonly features: EncoderShape;
  readonly context: EncoderShape;
  /** Levels of the correlation pyramid. */
  readonly levels: number;
  /** Neighbours looked up on each side, at each level. */
  readonly radius: number;
  /** Channels of the motion encoder: correlation (one or two convolutions), flow (two), and its output with the flow itself. */
  readonly motion: { readonly corr: readonly number[]; readonly flow: readonly [number, number]; readonly out: number };
  readonly hidden: number;
  /** Kernels [rows, columns] of the recurrent units, one or two. */
  readonly kernels: readonly (readonly [number, number])[];
  readonly head: number;
  /** Width of the network that weighs neighbours for upsampling; absent in the small model, which interpolates. */
  readonly mask: number | undefined;
}

/** All published models have four levels (arXiv 2003.12039, 3.2); weights only tell levels times neighbourhood. */
const LEVELS = 4;

/** What is asked of a checkpoint's header. */
export interface Header {
  has(key: string): boolean;
  info(key: string): Pick<TensorInfo, "shape">;
}

export function readShape(header: Header, path: string): RaftShape {
  const shape = (key: string): readonly number[] => {
    if (!header.has(`${key}.weight`))
      throw new WaverError("checkpoint_invalid", `${path} is no RAFT: it has no ${key}.weight`, {
        hint: "give weights of torchvision's raft_small or raft_large, as safetensors",
      });
    return header.info(`${key}.weight`).shape;
  };
  const out = (key: string): number => shape(key)[0] as number;
  const encoder = (name: string, norm: EncoderShape["norm"]): EncoderShape => {
    const block = header.has(`${name}.layer1.0.convnormrelu3.0.weight`) ? "bottleneck" : "residual";
    const last = block === "bottleneck" ? "convnormrelu3.0" : "convnormrelu2.0";
    const layer = (n: number): number => out(`${name}.layer${n}.0.${last}`);
    return {
      block,
      layers: [out(`${name}.convnormrelu.0`), layer(1), layer(2), layer(3), out(`${name}.conv`)],
      norm: header.has(`${name}.convnormrelu.1.running_mean`) ? "batch" : norm,
    };
  };
  const update = "update_block";
  const motion = `${update}.motion_encoder`;
  const looked = (shape(`${motion}.convcorr1.0`)[1] as number) / LEVELS;
  const radius = (Math.sqrt(looked) - 1) / 2;
  if (!Number.isInteger(radius))
    throw new WaverError(
      "checkpoint_invalid",
      `${path}: ${looked * LEVELS} correlations are no ${LEVELS} levels of squares`,
    );
  const has = (key: string): boolean => header.has(`${key}.weight`);
  const gru = `${update}.recurrent_block.convgru`;
  return {
    // instance norm has no weights, so its absence cannot be read: torchvision's encoders of images have it, its small context none
    features: encoder("feature_encoder", "instance"),
    context: encoder("context_encoder", "none"),
    levels: LEVELS,
    radius,
    motion: {
      corr: [1, 2]
        .map((n) => `${motion}.convcorr${n}.0`)
        .filter(has)
        .map(out),
      flow: [out(`${motion}.convflow1.0`), out(`${motion}.convflow2.0`)],
      out: out(`${motion}.conv.0`) + 2,
    },
    hidden: out(`${gru}1.convz`),
    kernels: [1, 2]
      .map((n) => `${gru}${n}.convz`)
      .filter(has)
      .map((key) => shape(key).slice(2) as [number, number]),
    head: out(`${update}.flow_head.conv1`),
    mask: has("mask_predictor.conv") ? out("mask_predictor.convrelu.0") : undefined,
  };
}
