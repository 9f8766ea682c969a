/** How a request says that several processes shall make one sample together. */
import { z } from "zod";
import { type Ranks, WaverError } from "../../plugins/index.ts";

const count = z.int().positive();

export const Parallel = z.strictObject({
  attention: z.enum(["auto", "ulysses", "ring"]).default("auto").meta({
    description:
      "how ranks share a sequence: by heads, by keys and values that go round, or as much of the first as heads allow",
  }),
  ulysses: count.optional().meta({ description: "ranks that share by heads; such groups form a ring" }),
  replicas: count.default(1).meta({
    description:
      "parts of the ranks that each run whole passes: 2 denoise the positive and the negative prompt side by side",
  }),
  shardWeights: z
    .boolean()
    .default(false)
    .meta({ description: "every rank keeps a part of each block's weights only" }),
});
export type Parallel = z.output<typeof Parallel>;

/** The usual ways in a word. */
const WORDS = {
  auto: {},
  ulysses: { attention: "ulysses" },
  ring: { attention: "ring" },
  cfg: { replicas: 2 },
} as const satisfies Record<string, z.input<typeof Parallel>>;
type Word = keyof typeof WORDS;

export const rankFields = {
  ranks: count.max(1024).default(1).meta({ description: "processes that make one sample together, on a device each" }),
  parallel: z
    .union([z.enum(Object.keys(WORDS) as [Word, ...Word[]]), Parallel])
    .transform((given): Parallel => (typeof given === "string" ? Parallel.parse(WORDS[given]) : given))
    .optional()
    .meta({
      description:
        "what the ranks share: a sequence (auto, ulysses by heads, ring by keys and values) or the prompts (cfg); or each of it by itself",
    }),
} as const;

/** What is wrong with the two fields, before anything is started. */
export function* problemsOfRanks(
  ranks: number,
  parallel?: Parallel,
): Generator<[field: "ranks" | "parallel", problem: string]> {
  if (parallel === undefined) return;
  const { replicas, ulysses, attention } = parallel;
  if (ranks === 1)
    yield ["parallel", "there is one rank, which shares with nobody: give ranks 2 or more, or leave parallel out"];
  else if (ranks % replicas !== 0)
    yield ["parallel", `${ranks} ranks do not divide into parallel.replicas ${replicas}`];
  else if (ulysses !== undefined && (ranks / replicas) % ulysses !== 0)
    yield ["parallel", `${ranks / replicas} ranks of a sequence do not divide by parallel.ulysses ${ulysses}`];
  if (ulysses !== undefined && ulysses > 1 && attention === "ring")
    yield [
      "parallel",
      `parallel.ulysses ${ulysses} shares by heads, parallel.attention ring does not: leave one of them out`,
    ];
  if (ulysses !== undefined && attention === "ulysses" && ulysses * replicas !== ranks)
    yield [
      "parallel",
      `parallel.attention ulysses shares among all ${ranks / replicas} ranks of a sequence: leave parallel.ulysses ${ulysses} out, or attention`,
    ];
}

export const ranksOf = ({ ranks, parallel }: { ranks: number; parallel?: Parallel | undefined }): Ranks | null =>
  ranks === 1 ? null : { count: ranks, ...Parallel.parse(parallel ?? {}) };

/** What a process is told when it starts as one of several. */
export const RankArguments = z.object({ ...Parallel.shape, rank: z.int().nonnegative(), count });
export type RankArguments = z.output<typeof RankArguments>;

/** The device of a rank: GPUs count up from the configured one. */
export function rankDevice(device: string, rank: number): string {
  const gpu = /^cuda:(\d+)$/.exec(device);
  return gpu === null ? device : `cuda:${Number(gpu[1]) + rank}`;
}

export const rankLost = (message: string, cause?: unknown): WaverError =>
  new WaverError("rank_lost", message, { cause, hint: "the job goes on when its ranks have started again" });
