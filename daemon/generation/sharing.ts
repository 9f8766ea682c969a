/** What a request on several ranks takes on each of them, and what they send each other. */
import { z } from "zod";
import { Parallel } from "../runner/mesh.ts";
import type { GenerateInput } from "./request.ts";

const count = z.number().nonnegative();

export const RanksPlan = z.object({
  count: z.int().positive(),
  replicas: z.int().positive(),
  /** Bytes of the denoiser's weights on each rank, and what it takes there beside them. */
  weightBytes: count,
  peakBytes: count,
  /** Payload that all ranks together send over the whole job. */
  sentBytes: count,
});
export type RanksPlan = z.output<typeof RanksPlan>;

type Engine = typeof import("../runner/generation/outlines.ts");
type Sharing = Parameters<Engine["passTraffic"]>[3];

export function sharingOf({ ranks, parallel }: GenerateInput): Sharing | null {
  if (ranks === 1) return null;
  const { replicas, attention, ulysses, shardWeights } = Parallel.parse(parallel ?? {});
  return { ranks, replicas, attention, ulysses, shardWeights };
}

/** Ranks that a pass keeps busy: those of a sequence, and as many replicas as there are passes side by side. */
export const busy = ({ ranks, replicas }: Sharing, passesAStep: number, batch: number): number =>
  (ranks / replicas) * Math.min(replicas, Math.max(1, passesAStep * batch));

/** Of one denoiser. Bytes of inputs are of one pass. */
interface Denoising {
  readonly passes: number;
  readonly steps: number;
  readonly passBytes: number;
  readonly latents: number;
  readonly texts: number;
  readonly beside: number;
}

/** What is sent while all of its passes run: inputs to every rank, outputs of other replicas back, and what a pass itself sends. */
export function sentBytes(
  { passes, steps, passBytes, latents, texts, beside }: Denoising,
  { ranks, replicas }: Sharing,
  engine: Engine,
): number {
  const inside = passes * passBytes;
  if (replicas === 1)
    return inside + passes * engine.passBytes(ranks, { inputs: latents + texts + beside, outputsElsewhere: 0 });
  // the passes of a step go out together, each text with them
  const each = passes / Math.max(1, steps);
  const outputsElsewhere = latents * (each - Math.ceil(each / replicas));
  return inside + steps * engine.passBytes(ranks, { inputs: latents + each * texts + beside, outputsElsewhere });
}
