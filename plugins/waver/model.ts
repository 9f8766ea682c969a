/**
 * The Waver network: one transformer for images, video and known frames (Waver 2.1), and the refiner (2.2).
 *
 * [V, I, Mask] is cut into patches that become tokens with learned positions; M dual-stream blocks align text and video,
 * N single-stream blocks take them as one sequence; the video tokens leave as patches of velocity.
 *
 * Axes: B batch, C channels, T H W latent frames, rows, columns; t h w the same in patches; L tokens, D width.
 */
import {
  cat,
  Linear,
  Module,
  matmulPolicy,
  normalInit,
  ones,
  overTokens,
  type Parameter,
  type RopeTable,
  rope3d,
  scope,
  type Tensor,
  tensor,
  throughBlocks,
  zeros,
} from "../../native/index.ts";
import { WaverError } from "../errors.ts";
import {
  DualBlock,
  type Mlp,
  Output,
  type Shared,
  SingleBlock,
  TextProjection,
  timeFeatures,
  timeMlp,
} from "./layers.ts";
import type { Grid, WaverParams } from "./params.ts";
import { gridWindows, type LayerKind, layerKinds } from "./windows.ts";

/** Features of one encoder: states [B L dim], mask [B L], true where a token is real. */
export interface Features {
  readonly states: Tensor;
  readonly mask: Tensor;
}

export interface WaverInput {
  /** V, noisy latents [B C T H W]. */
  readonly latents: Tensor;
  /** I [B C T H W] and Mask [B 4 T H W]. */
  readonly known: { readonly latents: Tensor; readonly mask: Tensor };
  /** [B], flow time in [0, 1]. */
  readonly t: Tensor;
  readonly t5: Features | null;
  readonly qwen: Features | null;
}

/** Deviation of fresh position tables, ViT's. */
const POSITION_STD = 0.02;

class TextInput extends Module {
  readonly t5: TextProjection | null;
  readonly qwen: TextProjection | null;

  constructor(p: WaverParams, D: number) {
    super();
    this.t5 = p.t5_dim === null ? null : new TextProjection(p.t5_dim, D);
    this.qwen = p.qwen_dim === null ? null : new TextProjection(p.qwen_dim, D);
  }

  /** Both encoders' tokens in one sequence, T5 first. */
  forward(input: Pick<WaverInput, "t5" | "qwen">): Features {
    const parts = (["t5", "qwen"] as const).flatMap((name) => {
      const [projection, features] = [this[name], input[name]];
      if ((projection === null) !== (features === null))
        throw new WaverError(
          "needs_unmet",
          `this network ${projection === null ? "takes no" : "needs"} ${name} features`,
        );
      return projection === null || features === null
        ? []
        : [{ states: projection.forward(features.states), mask: features.mask }];
    });
    if (parts.length === 1) return parts[0]!;
    return {
      states: cat(
        parts.map((part) => part.states),
        1,
      ),
      mask: cat(
        parts.map((part) => part.mask),
        1,
      ),
    };
  }
}

export class WaverTransformer extends Module {
  readonly patch_embed: Linear;
  readonly pos_t: Parameter;
  readonly pos_h: Parameter;
  readonly pos_w: Parameter;
  readonly text: TextInput;
  readonly time: Mlp;
  readonly dual: readonly DualBlock[];
  readonly single: readonly SingleBlock[];
  readonly out: Output;
  readonly #kinds: readonly LayerKind[];

  constructor(readonly params: WaverParams) {
    super();
    const p = params;
    const D = p.num_heads * p.head_dim;
    const patch = p.patch_size[0] * p.patch_size[1] * p.patch_size[2];
    this.patch_embed = new Linear(p.in_channels * patch, D);
    [this.pos_t, this.pos_h, this.pos_w] = p.pos_sizes.map((n) => this.parameter([n, D], normalInit(POSITION_STD))) as [
      Parameter,
      Parameter,
      Parameter,
    ];
    this.text = new TextInput(p, D);
    this.time = timeMlp(D);
    this.dual = Array.from({ length: p.num_dual }, () => new DualBlock(p));
    this.single = Array.from({ length: p.num_single }, () => new SingleBlock(p));
    this.out = new Output(D, p.out_channels * patch);
    this.#kinds = layerKinds(p);
  }

  override runsBlocks(): readonly Module[] {
    return [...this.dual, ...this.single];
  }

  /** -> velocity [B C T H W]; for a refiner x0 - x_n. `taps` collects what blocks give, by name. */
  forward(input: WaverInput, taps?: Map<string, Tensor>): Tensor {
    const { latents, known } = input;
    const grid = this.#grid(latents);
    const dtype = matmulPolicy()?.dtype ?? this.patch_embed.weight.dtype;
    const tap = (name: string, value: Tensor): Tensor => {
      taps?.set(name, value);
      return value;
    };

    const patches = this.#patchify(cat([latents, known.latents, known.mask], 1).to(dtype), grid);
    // a long clip's tokens are gigabytes: what is done with goes at once, unless somebody looks at it
    const briefly = taps === undefined ? scope : <T>(make: () => T): T => make();
    let video = tap(
      "tokens",
      briefly(() => tap("patch_embed", this.patch_embed.forward(patches)).add(this.#positions(grid))),
    );
    const textInput = this.text.forward(input);
    const text = tap("text", textInput.states);
    const vec = tap("vec", this.time.forward(timeFeatures(input.t).to(dtype)));

    const rope = rope3d(grid, this.params.head_dim, this.params.rope_theta, vec.device); // axes (t, h, w) take (44, 42, 42) of 128
    taps?.set("rope_cos", rope.cos).set("rope_sin", rope.sin);
    const fixed = this.#shared(vec, grid, textInput.mask);
    video = overTokens({ video: [video, 1], cos: [rope.cos, 0], sin: [rope.sin, 0] }, (local) => {
      const shared = { ...fixed, rope: ropes(local, text.size(1)) };
      let streams: [Tensor, Tensor] = [local.video, text];
      const keep = taps !== undefined;
      streams = throughBlocks(
        this.dual,
        streams,
        (block, [video, text], i) => {
          [video, text] = block.forward(video, text, this.#kinds[i]!, shared);
          return [tap(`dual.${i}.video`, video), tap(`dual.${i}.text`, text)];
        },
        { keep },
      );
      const joint = cat(streams.toReversed(), 1);
      if (!keep && this.dual.length > 0) for (const each of streams) each.dispose();
      const tokens = throughBlocks(
        this.single,
        joint,
        (block, x, i) => tap(`single.${i}`, block.forward(x, this.#kinds[this.dual.length + i]!, shared)),
        { keep },
      );
      return tokens.narrow(1, text.size(1), local.video.size(1));
    });
    return this.#unpatchify(this.out.forward(video, vec), grid);
  }

  #grid(latents: Tensor): Grid {
    const [T, H, W] = latents.shape.slice(2) as [number, number, number];
    const { patch_size: patch, pos_sizes: limits } = this.params;
    const sizes = [T, H, W].map((length, axis) => {
      const n = length / patch[axis]!;
      if (!Number.isInteger(n))
        throw new WaverError("shape_mismatch", `latents [${latents.shape}] do not divide into patches of [${patch}]`);
      if (n > limits[axis]!)
        throw new WaverError(
          "shape_mismatch",
          `latents [${latents.shape}] give ${n} patches on axis ${"THW"[axis]}; this network has positions for ${limits[axis]}`,
        );
      return n;
    });
    return { t: sizes[0]!, h: sizes[1]!, w: sizes[2]! };
  }

  /** [B C T H W] -> [B L C*pt*ph*pw], features in order (channel, pt, ph, pw), tokens in order (t, h, w). */
  #patchify(x: Tensor, { t, h, w }: Grid): Tensor {
    const [pt, ph, pw] = this.params.patch_size;
    const [B, C] = x.shape as [number, number];
    return x
      .reshape([B, C, t, pt, h, ph, w, pw])
      .permute([0, 2, 4, 6, 1, 3, 5, 7])
      .reshape([B, t * h * w, C * pt * ph * pw]);
  }

  /** [B L C*pt*ph*pw] -> [B C T H W] */
  #unpatchify(x: Tensor, { t, h, w }: Grid): Tensor {
    const [pt, ph, pw] = this.params.patch_size;
    const C = this.params.out_channels;
    return x
      .reshape([x.size(0), t, h, w, C, pt, ph, pw])
      .permute([0, 4, 1, 5, 2, 6, 3, 7])
      .reshape([x.size(0), C, t * pt, h * ph, w * pw]);
  }

  /** Factorised learned positions, summed: [L D]. */
  #positions({ t, h, w }: Grid): Tensor {
    const along = (table: Parameter, n: number, shape: number[]): Tensor =>
      table.narrow(0, 0, n).reshape([...shape, -1]);
    return along(this.pos_t, t, [t, 1, 1])
      .add(along(this.pos_h, h, [1, h, 1]))
      .add(along(this.pos_w, w, [1, 1, w]))
      .flatten(0, 2);
  }

  #shared(vec: Tensor, grid: Grid, textMask: Tensor): Omit<Shared, "rope"> {
    const { window } = this.params;
    const [B, numText] = textMask.shape as [number, number];
    const device = vec.device;
    const real = textMask.to("bool");
    return {
      vec,
      numText,
      mask: real.all().item()
        ? null
        : cat([real, ones([B, grid.t * grid.h * grid.w], { dtype: "bool", device })], 1)
            .unsqueeze(1)
            .unsqueeze(1),
      windows: Object.fromEntries(
        [...new Set(this.#kinds)].flatMap((kind) =>
          kind === "full" || window === null
            ? []
            : [
                [
                  kind,
                  gridWindows(grid, window, kind).map((group) => ({
                    ...group,
                    index: tensor(group.tokens, { dtype: "int64", device }),
                  })),
                ],
              ],
        ),
      ),
    };
  }
}

/** The video's table, and that of [text, video], where text is turned by nothing. */
function ropes(video: RopeTable, numText: number): Shared["rope"] {
  const { device } = video.cos;
  const still = [numText, video.cos.size(1)];
  return {
    video,
    joint: { cos: cat([ones(still, { device }), video.cos], 0), sin: cat([zeros(still, { device }), video.sin], 0) },
  };
}
