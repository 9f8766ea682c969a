/**
 * The parts of the Waver network (Waver 2.1; what the paper leaves open is fixed in README.md).
 *
 * Axes: B batch, L tokens (Lt text, Lv video), D width, h heads, d head dim. video [B Lv D], text [B Lt D], vec [B D].
 * Children are named as the checkpoint's keys.
 */
import {
  cat,
  gatedAdd,
  gatedAddNorm,
  geluTanh,
  Linear,
  Module,
  modulatedLayerNorm,
  normRope,
  RMSNorm,
  type RopeTable,
  scope,
  type Tensor,
  type TokenWindows,
  tensor,
  tokenAttention,
  zerosInit,
} from "../../native/index.ts";
import { MLP_RATIO, TIME_FEATURES, type WaverParams } from "./params.ts";
import type { LayerKind } from "./windows.ts";

/** Every norm of the network. */
const EPS = 1e-6;

/** What all blocks share in one forward. */
export interface Shared {
  /** [B D] */
  readonly vec: Tensor;
  /** Tables of the video tokens [Lv, d / 2], and of the joint ones [Lt + Lv, d / 2], where text is turned by nothing. */
  readonly rope: { readonly video: RopeTable; readonly joint: RopeTable };
  readonly numText: number;
  /** Keys that are real tokens, bool [B 1 1 Lt + Lv]; null when all are. */
  readonly mask: Tensor | null;
  /** Windows of the layer kinds that have them; token numbers int64. */
  readonly windows: Readonly<Partial<Record<LayerKind, readonly TokenWindows[]>>>;
}

interface Modulation {
  readonly shift: Tensor;
  readonly scale: Tensor;
  readonly gate: Tensor;
}

/** Modulations start at zero, so that a fresh block is the identity (adaLN-Zero, Peebles and Xie 2023). */
const modulationOf = (D: number, n: number): Linear =>
  new Linear(D, n * D, { init: zerosInit, biasInit: zerosInit, precise: true });

/** SiLU(vec) [B D] -> n modulations of [B 1 D], each shift, scale, gate. */
function modulations(mod: Linear, vec: Tensor, n: number): Modulation[] {
  const parts = mod
    .forward(vec.silu())
    .unsqueeze(1)
    .chunk(3 * n, -1) as Tensor[];
  return Array.from({ length: n }, (_, i) => ({
    shift: parts[3 * i]!,
    scale: parts[3 * i + 1]!,
    gate: parts[3 * i + 2]!,
  }));
}

/** q, k, v [B L h d] of joint tokens -> [B L D]. Each text token attends to everything, a video token to its window and all text. */
export const attention = (
  q: Tensor,
  k: Tensor,
  v: Tensor,
  kind: LayerKind,
  { numText, mask, windows }: Pick<Shared, "numText" | "mask" | "windows">,
): Tensor => tokenAttention(q, k, v, { prefix: numText, mask, windows: windows[kind] }).flatten(2);

abstract class Heads extends Module {
  readonly q_norm: RMSNorm;
  readonly k_norm: RMSNorm;
  readonly #heads: number;

  constructor({ num_heads, head_dim }: WaverParams) {
    super();
    this.q_norm = new RMSNorm(head_dim, { eps: EPS });
    this.k_norm = new RMSNorm(head_dim, { eps: EPS });
    this.#heads = num_heads;
  }

  /** [B L 3D] -> q, k, v [B L h d]; q and k normalised a head at a time, then rotated. */
  protected split(qkv: Tensor, rope: RopeTable | null): [Tensor, Tensor, Tensor] {
    const [q, k, v] = qkv.chunk(3, -1) as [Tensor, Tensor, Tensor];
    const turned = (x: Tensor, { weight }: RMSNorm): Tensor =>
      normRope(x, { heads: this.#heads, weight, rope, eps: EPS }).transpose(1, 2);
    return [turned(q, this.q_norm), turned(k, this.k_norm), v.unflatten(-1, [this.#heads, -1])];
  }
}

export class Mlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;

  constructor(
    from: number,
    hidden: number,
    to: number,
    readonly activation: (x: Tensor) => Tensor,
  ) {
    super();
    this.fc1 = new Linear(from, hidden);
    this.fc2 = new Linear(hidden, to);
  }

  forward(x: Tensor): Tensor {
    return scope(() => {
      const inner = this.fc1.forward(x);
      const active = this.activation(inner);
      inner.dispose();
      return this.fc2.forward(active);
    });
  }
}

const silu = (x: Tensor): Tensor => x.silu();

/** One modality's own half of a dual-stream block. */
class Stream extends Heads {
  readonly mod: Linear;
  readonly qkv: Linear;
  readonly proj: Linear;
  readonly mlp: Mlp;

  constructor(p: WaverParams) {
    super(p);
    const D = p.num_heads * p.head_dim;
    this.mod = modulationOf(D, 6);
    this.qkv = new Linear(D, 3 * D);
    this.proj = new Linear(D, D);
    this.mlp = new Mlp(D, MLP_RATIO * D, D, geluTanh);
  }

  before(x: Tensor, mod: Modulation, rope: RopeTable | null): [Tensor, Tensor, Tensor] {
    return scope(() => this.split(this.qkv.forward(modulatedLayerNorm(x, mod, EPS)), rope));
  }

  after(x: Tensor, attended: Tensor, [first, second]: readonly [Modulation, Modulation]): Tensor {
    return scope(() => {
      const [h, normed] = scope(() => gatedAddNorm(x, this.proj.forward(attended), first.gate, second, EPS));
      return gatedAdd(h, this.mlp.forward(normed), second.gate);
    });
  }

  modulations(vec: Tensor): readonly [Modulation, Modulation] {
    return modulations(this.mod, vec, 2) as [Modulation, Modulation];
  }
}

/** Video and text with parameters of their own, merged only in the attention (Waver 2.1, Hybrid Stream Structure). */
export class DualBlock extends Module {
  readonly video: Stream;
  readonly text: Stream;

  constructor(p: WaverParams) {
    super();
    this.video = new Stream(p);
    this.text = new Stream(p);
  }

  forward(video: Tensor, text: Tensor, kind: LayerKind, shared: Shared): [video: Tensor, text: Tensor] {
    const modVideo = this.video.modulations(shared.vec);
    const modText = this.text.modulations(shared.vec);
    // a long clip's tokens are gigabytes: what is done with goes at once
    const attended = scope(() => {
      const joint = scope(() => {
        const ofVideo = this.video.before(video, modVideo[0], shared.rope.video);
        const ofText = this.text.before(text, modText[0], null);
        return ofText.map((each, i) => cat([each, ofVideo[i]!], 1)) as [Tensor, Tensor, Tensor];
      });
      return attention(...joint, kind, shared);
    });
    const [attText, attVideo] = attended.split([text.size(1), video.size(1)], 1) as [Tensor, Tensor];
    return [this.video.after(video, attVideo, modVideo), this.text.after(text, attText, modText)];
  }
}

/** [text, video] as one sequence; attention and MLP side by side between two wide linears. */
export class SingleBlock extends Heads {
  readonly mod: Linear;
  readonly fused_in: Linear;
  readonly fused_out: Linear;

  constructor(p: WaverParams) {
    super(p);
    const D = p.num_heads * p.head_dim;
    this.mod = modulationOf(D, 3);
    this.fused_in = new Linear(D, (3 + MLP_RATIO) * D);
    this.fused_out = new Linear((1 + MLP_RATIO) * D, D);
  }

  /** tokens [B Lt+Lv D] */
  forward(tokens: Tensor, kind: LayerKind, shared: Shared): Tensor {
    const D = tokens.size(-1);
    const mod = modulations(this.mod, shared.vec, 1)[0]!;
    const beside = scope(() => {
      const [qkv, hidden] = scope(() => {
        const wide = this.fused_in.forward(modulatedLayerNorm(tokens, mod, EPS));
        return wide.split([3 * D, MLP_RATIO * D], -1) as [Tensor, Tensor];
      });
      const attended = scope(() => attention(...this.split(qkv, shared.rope.joint), kind, shared));
      const active = geluTanh(hidden);
      for (const each of [qkv, hidden]) each.dispose();
      return cat([attended, active], -1);
    });
    return gatedAdd(tokens, this.fused_out.forward(beside), mod.gate);
  }
}

/** Features of one text encoder, brought to the network's width. */
export class TextProjection extends Module {
  readonly norm: RMSNorm;
  readonly fc1: Linear;
  readonly fc2: Linear;

  constructor(dim: number, D: number) {
    super();
    this.norm = new RMSNorm(dim, { eps: EPS });
    this.fc1 = new Linear(dim, D);
    this.fc2 = new Linear(D, D);
  }

  /** [B L dim] -> [B L D] */
  forward(states: Tensor): Tensor {
    return this.fc2.forward(geluTanh(this.fc1.forward(this.norm.forward(states))));
  }
}

/** t [B] in [0, 1] -> [B 256]: cos and sin of 1000 t at frequencies 10000^(-k/128), in float32 like every reference. */
export function timeFeatures(t: Tensor): Tensor {
  const half = TIME_FEATURES / 2;
  const frequencies = tensor(
    Float32Array.from({ length: half }, (_, k) => 10_000 ** (-k / half)),
    { device: t.device },
  );
  const angles = t.float().mul(1000).unsqueeze(-1).mul(frequencies);
  return cat([angles.cos(), angles.sin()], -1);
}

export const timeMlp = (D: number): Mlp => new Mlp(TIME_FEATURES, D, D, silu);

/** Video tokens back to patches: one more modulation, then a linear. */
export class Output extends Module {
  readonly mod: Linear;
  readonly proj: Linear;

  constructor(D: number, features: number) {
    super();
    this.mod = modulationOf(D, 2);
    this.proj = new Linear(D, features, { init: zerosInit, biasInit: zerosInit });
  }

  forward(video: Tensor, vec: Tensor): Tensor {
    const [shift, scale] = this.mod.forward(vec.silu()).unsqueeze(1).chunk(2, -1) as [Tensor, Tensor];
    return this.proj.forward(modulatedLayerNorm(video, { shift, scale }, EPS));
  }
}
