/**
 * The layers of Qwen2.5-VL's vision tower (arXiv 2502.13923, 2.1.1): RMS norms, gated MLPs and rotary positions as in the
 * decoder, attention within windows or within a frame. Axes: N patches of one image or video, D width, H heads, d of a head.
 */
import {
  applyRopeHalves,
  GatedMLP,
  Linear,
  Module,
  mergeHeads,
  RMSNorm,
  type RopeTable,
  segmentedAttention,
  type Tensor,
} from "../../native/index.ts";
import type { VisionConfig } from "./params.ts";

/** Fixed in the reference, not in the configuration. */
const EPS = 1e-6;

class VisionAttention extends Module {
  readonly qkv: Linear;
  readonly proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size, num_heads }: VisionConfig) {
    super();
    this.#heads = num_heads;
    this.qkv = new Linear(hidden_size, 3 * hidden_size);
    this.proj = new Linear(hidden_size, hidden_size);
  }

  /** x [N D], patches of one segment consecutive -> [N D] */
  forward(x: Tensor, rope: RopeTable, segments: readonly number[]): Tensor {
    // [N 3D] -> three of [1 H N d]
    const [q, k, v] = this.qkv
      .forward(x)
      .unflatten(-1, [3, this.#heads, -1])
      .permute([1, 2, 0, 3])
      .unsqueeze(1)
      .unbind(0) as [Tensor, Tensor, Tensor];
    const seen = segmentedAttention(applyRopeHalves(q, rope), applyRopeHalves(k, rope), v, segments);
    return this.proj.forward(mergeHeads(seen).squeeze(0));
  }
}

export class VisionBlock extends Module {
  readonly norm1: RMSNorm;
  readonly norm2: RMSNorm;
  readonly attn: VisionAttention;
  readonly mlp: GatedMLP;

  constructor(config: VisionConfig) {
    super();
    this.norm1 = new RMSNorm(config.hidden_size, { eps: EPS });
    this.norm2 = new RMSNorm(config.hidden_size, { eps: EPS });
    this.attn = new VisionAttention(config);
    this.mlp = new GatedMLP(config.hidden_size, config.intermediate_size, { bias: true });
  }

  /** x [N D] -> [N D] */
  forward(x: Tensor, rope: RopeTable, segments: readonly number[]): Tensor {
    const y = x.add(this.attn.forward(this.norm1.forward(x), rope, segments));
    return y.add(this.mlp.forward(this.norm2.forward(y)));
  }
}

/** Neighbouring patches, consecutive rows, become one token of the decoder's width: [N D] -> [N / merge^2, D_text] */
export class PatchMerger extends Module {
  readonly ln_q: RMSNorm;
  readonly mlp: readonly [Linear, undefined, Linear];
  readonly #inner: number;

  constructor({ hidden_size, out_hidden_size, spatial_merge_size }: VisionConfig) {
    super();
    this.#inner = hidden_size * spatial_merge_size ** 2;
    this.ln_q = new RMSNorm(hidden_size, { eps: EPS });
    this.mlp = [new Linear(this.#inner, this.#inner), undefined, new Linear(this.#inner, out_hidden_size)];
  }

  forward(x: Tensor): Tensor {
    const joined = this.ln_q.forward(x).view([-1, this.#inner]);
    return this.mlp[2].forward(this.mlp[0].forward(joined).gelu());
  }
}
