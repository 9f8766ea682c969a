/** What networks.test.ts runs in every rank: whole networks over spread tokens, and with their weights in parts. */
import {
  allocatedBytes,
  emptyCache,
  Generator,
  Mesh,
  type Module,
  normal_,
  peakBytes,
  randn,
  resetPeakBytes,
  type SequenceMode,
  SequenceParallel,
  ShardedWeights,
  scope,
  setBlockKeeper,
  type Tensor,
  tensor,
  type WeightForm,
  withBlockPolicy,
  withoutFusion,
  withTokenPolicy,
} from "../../native/index.ts";
import { WanTransformer } from "../../plugins/wan/model.ts";
import { WanConfig } from "../../plugins/wan/params.ts";
import { fresh } from "../../plugins/waver/checkpoint.ts";
import { WaverParams } from "../../plugins/waver/params.ts";
import type { Rank, RankCases } from "../support/ranks.ts";

export interface NetworkCase {
  readonly network: "wan" | "waver" | "refiner";
  readonly heads: number;
  /** Latent frames, rows, columns. */
  readonly size: readonly [number, number, number];
  readonly batch: number;
  readonly mode?: SequenceMode;
  readonly ulysses?: number;
  readonly replicas?: number;
  /** A time a token, as in Wan 2.2. */
  readonly tokenTimes?: boolean;
  /** Also cut the weights: the same forward twice, before and after. */
  readonly shard?: boolean;
}

type Network = Disposable & {
  readonly module: Module;
  readonly forward: () => Tensor;
  readonly blockBytes: () => number;
};

function build(of: NetworkCase, generator: Generator): Network {
  const [T, H, W] = of.size;
  const draw = (...shape: number[]): Tensor => randn(shape, { generator });
  if (of.network === "wan") {
    const config = WanConfig.parse({
      ...{ num_attention_heads: of.heads, attention_head_dim: 12, in_channels: 4, out_channels: 4, text_dim: 10 },
      ...{ ffn_dim: 48, num_layers: 3 },
    });
    const net = new WanTransformer(config).init(generator);
    for (const p of net.parameters()) normal_(p, 0, 0.2, generator);
    const tokens = T * Math.floor(H / 2) * Math.floor(W / 2);
    const [latents, text] = [draw(of.batch, 4, T, H, W), draw(of.batch, 7, 10)];
    const timestep = of.tokenTimes === true ? draw(of.batch, tokens).abs().mul(500) : draw(of.batch).abs().mul(500);
    return {
      module: net,
      forward: () => net.forward({ latents, timestep, text }),
      blockBytes: () => net.blocks.reduce((sum, block) => sum + block.bytes("float32"), 0),
      [Symbol.dispose]: () => net.dispose(),
    };
  }
  const params = WaverParams.parse({
    ...{ num_dual: 2, num_single: 3, num_heads: of.heads, head_dim: 12, in_channels: 12, out_channels: 4 },
    ...{ patch_size: [1, 2, 2], t5_dim: 10, qwen_dim: 6, pos_sizes: [8, 8, 8] },
    window: of.network === "refiner" ? { kind: "count" } : null,
  });
  const net = fresh(params, 1);
  for (const p of net.parameters()) normal_(p, 0, 0.2, generator);
  const features = (length: number, dim: number, real: number) => ({
    states: draw(of.batch, length, dim),
    mask: tensor(Array.from({ length: of.batch }, (_, b) => Array.from({ length }, (_, i) => b === 0 || i < real))),
  });
  const [latents, known] = [draw(of.batch, 4, T, H, W), draw(of.batch, 8, T, H, W)];
  const input = {
    latents,
    known: { latents: known.narrow(1, 0, 4), mask: known.narrow(1, 4, 4) },
    t: draw(of.batch).sigmoid(),
    t5: features(5, 10, 2),
    qwen: features(4, 6, 3),
  };
  return {
    module: net,
    forward: () => net.forward(input),
    blockBytes: () => [...net.dual, ...net.single].reduce((sum, block) => sum + block.bytes("float32"), 0),
    [Symbol.dispose]: () => net.dispose(),
  };
}

export const cases = {
  /**
   * Largest distances from the whole forward: of spread tokens, of the same sums in another order (other kernels), and the
   * largest value. With `shard` also of the forward whose weights are gathered, and the part of the blocks this rank keeps.
   */
  compare: ({ store, world }: Rank, of: NetworkCase) => {
    using generator = new Generator(11);
    using mesh = new Mesh(store, world, of.replicas);
    return scope(() => {
      using net = build(of, generator);
      const whole = net.forward();
      const far = (other: Tensor): number => other.sub(whole).abs().max().item();
      const spread = (): Tensor =>
        withTokenPolicy(new SequenceParallel(mesh, { mode: of.mode, ulysses: of.ulysses }), net.forward);
      const result = {
        largest: whole.abs().max().item(),
        otherKernels: far(withoutFusion(net.forward)),
        spread: far(spread()),
        sharded: 0,
        kept: 1,
      };
      if (of.shard !== true) return result;
      using weights = new ShardedWeights(mesh.sequence);
      withBlockPolicy(weights, spread);
      const kept = weights.bytes / net.blockBytes();
      return { ...result, sharded: far(withBlockPolicy(weights, spread)), kept };
    });
  },

  /** A network loaded where blocks are cut: memory it takes for its blocks beside what they take whole, the same again when loading peaked, and the distance of its output. */
  loading: ({ store, world }: Rank, of: NetworkCase) => {
    using generator = new Generator(11);
    using mesh = new Mesh(store, world);
    return scope(() => {
      using whole = build(of, generator);
      using again = new Generator(11);
      using other = build(of, again);
      const expected = whole.forward();
      const source = whole.module.stateDict();
      using weights = new ShardedWeights(mesh.sequence);
      other.module.dispose();
      emptyCache();
      const blocks = whole.blockBytes();
      const rest = whole.module.bytes("float32") - blocks;
      const before = allocatedBytes();
      resetPeakBytes();
      setBlockKeeper(weights);
      other.module.load({ keys: source.keys(), get: (key) => (source.get(key) as Tensor).detach() });
      const kept = (allocatedBytes() - before - rest) / blocks;
      const peak = (peakBytes() - before - rest) / blocks;
      const spread = withBlockPolicy(weights, () => withTokenPolicy(new SequenceParallel(mesh), other.forward));
      const distance = spread.sub(expected).abs().max().item();
      other.module.dispose();
      setBlockKeeper(null);
      return { kept, peak, distance, left: weights.bytes, largest: expected.abs().max().item() };
    });
  },

  /** Weights in 8 bits and in parts: the part of the blocks' bytes that this rank keeps, and the distance from one device's output. */
  quantised: ({ store, world }: Rank, { form, ...of }: NetworkCase & { form: WeightForm }) => {
    const [first, second] = [new Generator(11), new Generator(11)];
    using mesh = new Mesh(store, world);
    return scope(() => {
      using whole = build(of, first);
      using other = build(of, second);
      for (const generator of [first, second]) generator.dispose();
      const stored = new Map(Array.from(whole.module.stateDict(), ([name, t]) => [name, t.clone()] as const));
      const source = { keys: [...stored.keys()], get: (key: string) => stored.get(key) as Tensor };
      whole.module.load(source, { weights: form });
      const expected = whole.forward();
      const blocks = whole.module.runsBlocks().reduce((sum, block) => sum + block.loadedBytes(), 0);
      using weights = new ShardedWeights(mesh.sequence);
      setBlockKeeper(weights);
      other.module.load(source, { weights: form });
      const kept = weights.bytes / blocks;
      const spread = (): Tensor =>
        withBlockPolicy(weights, () => withTokenPolicy(new SequenceParallel(mesh), other.forward));
      const distances = [spread(), spread()].map((each) => each.sub(expected).abs().max().item());
      other.module.dispose();
      setBlockKeeper(null);
      const smaller = blocks / whole.blockBytes();
      return { kept, smaller, distance: Math.max(...distances), largest: expected.abs().max().item() };
    });
  },

  /**
   * A loss that every rank computes from the whole output: the mean over ranks of each weight's gradient, beside that of
   * one device. Largest distance relative to the largest gradient of the same weight.
   */
  gradients: ({ store, world }: Rank, of: NetworkCase) => {
    using generator = new Generator(11);
    using mesh = new Mesh(store, world);
    return scope(() => {
      using net = build(of, generator);
      net.module.requiresGrad_();
      const gradients = (forward: () => Tensor): Tensor[] => {
        net.module.zeroGrad();
        scope(() => forward().square().mean().backward());
        return net.module.parameters().map((p) => (p.grad as Tensor).clone());
      };
      const relative = (mine: Tensor[], other: Tensor[]): number =>
        Math.max(
          ...mine.map(
            (g, i) =>
              g
                .sub(other[i] as Tensor)
                .abs()
                .max()
                .item() / Math.max(1e-6, g.abs().max().item()),
          ),
        );
      const whole = gradients(net.forward);
      const kernels = gradients(() => withoutFusion(net.forward));
      const policy = new SequenceParallel(mesh, { mode: of.mode });
      const spread = gradients(() => withTokenPolicy(policy, net.forward)).map((g) =>
        world.allReduce(g).div(world.size),
      );
      return { otherKernels: relative(whole, kernels), spread: relative(whole, spread), weights: whole.length };
    });
  },
} satisfies RankCases;
