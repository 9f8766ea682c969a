/**
 * The layers of VideoLLaMA3's vision tower (arXiv 2501.13106, 2.1): SigLIP's, with rotary positions instead of learned ones and
 * attention within a frame. Axes: N patches of one image or video, D width.
 */
import {
  applyRopeHalves,
  LayerNorm,
  Linear,
  Module,
  mergeHeads,
  type RopeTable,
  segmentedAttention,
  splitHeads,
  type Tensor,
} from "../../native/index.ts";
import type { VisionConfig } from "./params.ts";

class VisionAttention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads }: VisionConfig) {
    super();
    this.#heads = num_attention_heads;
    this.q_proj = new Linear(D, D);
    this.k_proj = new Linear(D, D);
    this.v_proj = new Linear(D, D);
    this.out_proj = new Linear(D, D);
  }

  /** x [1 N D], patches of one frame consecutive -> [1 N D] */
  forward(x: Tensor, rope: RopeTable, frames: readonly number[]): Tensor {
    const [q, k, v] = [this.q_proj, this.k_proj, this.v_proj].map((project) =>
      splitHeads(project.forward(x), this.#heads),
    ) as [Tensor, Tensor, Tensor];
    return this.out_proj.forward(
      mergeHeads(segmentedAttention(applyRopeHalves(q, rope), applyRopeHalves(k, rope), v, frames)),
    );
  }
}

export class VisionLayer extends Module {
  readonly layer_norm1: LayerNorm;
  readonly self_attn: VisionAttention;
  readonly layer_norm2: LayerNorm;
  readonly mlp: { readonly fc1: Linear; readonly fc2: Linear };

  constructor(config: VisionConfig) {
    super();
    const { hidden_size: D, intermediate_size, layer_norm_eps: eps } = config;
    this.layer_norm1 = new LayerNorm(D, { eps });
    this.self_attn = new VisionAttention(config);
    this.layer_norm2 = new LayerNorm(D, { eps });
    this.mlp = { fc1: new Linear(D, intermediate_size), fc2: new Linear(intermediate_size, D) };
  }

  /** x [1 N D] -> [1 N D] */
  forward(x: Tensor, rope: RopeTable, frames: readonly number[]): Tensor {
    const y = x.add(this.self_attn.forward(this.layer_norm1.forward(x), rope, frames));
    return y.add(this.mlp.fc2.forward(this.mlp.fc1.forward(this.layer_norm2.forward(y)).gelu("tanh")));
  }
}
