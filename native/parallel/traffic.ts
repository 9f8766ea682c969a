/**
 * Bytes that ranks send each other, all together, from sizes alone: what a plan says of a network that nobody has run yet.
 * Payload only; TCP adds about a thousandth on Ethernet's jumbo frames and on loopback.
 */
import { type Degrees, degreesFor, type SequenceMode } from "./mesh.ts";
import { stretches } from "./sequence.ts";

export interface SequenceTraffic {
  readonly batch: number;
  /** Tokens that are spread, and those of a prefix that is not. */
  readonly numTokens: number;
  readonly prefix?: number;
  readonly heads: number;
  readonly headDim: number;
  /** Layers with attention between tokens. */
  readonly numLayers: number;
  /** Bytes of one element. */
  readonly itemSize: number;
}

/** One forward of one sequence over `ranks` ranks. */
export function sequenceBytes(
  ranks: number,
  of: SequenceTraffic,
  how: { mode?: SequenceMode; ulysses?: number | undefined } = {},
): number {
  const degrees = degreesFor(ranks, of.heads, how.mode ?? "auto", how.ulysses);
  const token = of.batch * of.heads * of.headDim * of.itemSize;
  // the last block's tokens of every rank to all others, in stretches as long as the longest
  const leaving = ranks * (ranks - 1) * (stretches(of.numTokens, ranks)[0] as number) * token;
  return of.numLayers * (ulyssesBytes(of, degrees, token) + ringBytes(of, degrees, token)) + leaving;
}

/** q, k and v out, what was attended back; of every heads' share the ranks that have it keep their own. */
function ulyssesBytes({ numTokens, prefix = 0 }: SequenceTraffic, { ring, ulysses }: Degrees, token: number): number {
  const moved = (ulysses - 1) / ulysses;
  return 4 * numTokens * token * moved + ring * ulysses * prefix * token * moved;
}

/** Keys and values of a rank's heads to every other rank of its ring. */
const ringBytes = ({ numTokens }: SequenceTraffic, { ring }: Degrees, token: number): number =>
  2 * (ring - 1) * numTokens * token;

/** All blocks of a network gathered once, by each of `ranks` ranks that keep a part. */
export const shardBytes = (ranks: number, blockBytes: number): number => (ranks - 1) * blockBytes;

/** What a step sends beside its sequences: inputs from the leader to all, outputs of other replicas back to it. */
export const passBytes = (
  ranks: number,
  { inputs, outputsElsewhere }: { readonly inputs: number; readonly outputsElsewhere: number },
): number => (ranks - 1) * inputs + outputsElsewhere;
