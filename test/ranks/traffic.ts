/**
 * Steps on ranks whose bytes are counted where they pass: in every rank the cases below, and as a program (alone in a
 * network namespace) the ranks, of which it prints what they sent and what the formula says.
 */
import { readFileSync } from "node:fs";
import { packed, runPasses } from "../../daemon/runner/passes.ts";
import {
  Generator,
  Mesh,
  passBytes,
  randn,
  type SequenceMode,
  SequenceParallel,
  ShardedWeights,
  scope,
  sequenceBytes,
  shardBytes,
  withBlockPolicy,
  withTokenPolicy,
} from "../../native/index.ts";
import type { Denoiser, DenoiserInput } from "../../plugins/index.ts";
import { WanTransformer } from "../../plugins/wan/model.ts";
import { WanConfig } from "../../plugins/wan/params.ts";
import { onRanks, type Rank, type RankCases } from "../support/ranks.ts";

export interface TrafficCase {
  readonly name: string;
  readonly ranks: number;
  readonly replicas?: number;
  readonly mode?: SequenceMode;
  readonly heads: number;
  readonly shard?: boolean;
}
export interface Sizes {
  readonly numLayers: number;
  readonly headDim: number;
  /** Latent frames, rows, columns; a token is 1 x 2 x 2 of them. */
  readonly latents: readonly [number, number, number];
}
export interface Counted {
  readonly name: string;
  readonly measured: number;
  readonly formula: number;
}

/** Bytes that left through the namespace's one interface, by any process. */
function sent(): number {
  const line = readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .find((each) => each.trim().startsWith("lo:"));
  return Number(line?.split(":")[1]?.trim().split(/\s+/)[8]);
}

export const cases = {
  /** One guided step, positive and negative prompt. */
  step: ({ rank, store, world }: Rank, { of, sizes }: { of: TrafficCase; sizes: Sizes }): Counted => {
    using generator = new Generator(3);
    using mesh = new Mesh(store, world, of.replicas);
    return scope(() => {
      const [T, H, W] = sizes.latents;
      const D = of.heads * sizes.headDim;
      const config = WanConfig.parse({
        ...{ num_attention_heads: of.heads, attention_head_dim: sizes.headDim, in_channels: 16, out_channels: 16 },
        ...{ text_dim: 64, ffn_dim: D, num_layers: sizes.numLayers },
      });
      using net = new WanTransformer(config).init(generator);
      const network = {
        forward: ({ latents, t, text }: DenoiserInput) => net.forward({ latents, timestep: t, text: text.states }),
      } as unknown as Denoiser;
      const draw = (...shape: number[]) => randn(shape, { generator });
      const latents = draw(1, 16, T, H, W);
      const t = draw(1).abs();
      const prompt = () => ({ states: draw(1, 512, 64), mask: draw(1, 512).gt(9) });
      const passes: DenoiserInput[] = [prompt(), prompt()].map((text) => ({ latents, t, text }));
      const order = packed(passes);
      using weights = new ShardedWeights(mesh.sequence);
      const policy = new SequenceParallel(mesh, { mode: of.mode });
      const step = (): void => {
        const forward = (net: Denoiser, input: DenoiserInput) =>
          withBlockPolicy(of.shard === true ? weights : null, () =>
            withTokenPolicy(mesh.sequence.size === 1 ? null : policy, () => net.forward(input)),
          );
        scope(() => {
          runPasses({ world, mesh, forward }, network, order.packed, rank === 0 ? order.tensors : null, "cpu");
        });
      };
      step(); // groups are made and weights cut at their first turn
      // the store, and with it all but the step, is silent between two barriers
      world.barrier();
      const before = sent();
      world.barrier();
      step();
      world.barrier();
      const measured = sent() - before;

      const inputs = order.tensors.reduce((sum, x) => sum + x.bytes().length, 0);
      const replicas = of.replicas ?? 1;
      const together = of.ranks / replicas;
      const sequence = sequenceBytes(
        together,
        { batch: 1, numTokens: (T * H * W) / 4, itemSize: 4, ...sizes, heads: of.heads },
        { mode: of.mode },
      );
      const blocks = net.blocks.reduce((sum, block) => sum + block.bytes("float32"), 0);
      const outputsElsewhere = replicas === 1 ? 0 : latents.numel * 4;
      return {
        name: of.name,
        measured,
        formula:
          passBytes(of.ranks, { inputs, outputsElsewhere }) +
          passes.length * (sequence + (of.shard === true ? shardBytes(together, blocks) : 0)),
      };
    });
  },
} satisfies RankCases;

const ALL: readonly TrafficCase[] = [
  { name: "2 ranks, Ulysses", ranks: 2, heads: 4, mode: "ulysses" },
  { name: "2 ranks, Ring", ranks: 2, heads: 4, mode: "ring" },
  { name: "4 ranks, Ulysses", ranks: 4, heads: 4, mode: "ulysses" },
  { name: "4 ranks, Ulysses 2 in Ring 2", ranks: 4, heads: 6 },
  { name: "4 ranks, 2 replicas", ranks: 4, heads: 4, replicas: 2 },
  { name: "2 ranks, weights in parts", ranks: 2, heads: 4, shard: true },
];

/** `long`: 64 MB a step and more. */
const SIZES: Readonly<Record<"short" | "long", Sizes>> = {
  short: { numLayers: 2, headDim: 32, latents: [3, 30, 26] },
  long: { numLayers: 4, headDim: 64, latents: [9, 46, 46] },
};

if (import.meta.main) {
  const sizes = SIZES[process.argv[2] === "long" ? "long" : "short"];
  for (const of of ALL) {
    const [first] = await onRanks<Counted>(of.ranks, "test/ranks/traffic.ts", "step", { of, sizes });
    process.stdout.write(`${JSON.stringify(first)}\n`);
  }
}
