/** What the quick start reads of its children's answers; they may say more. */
import { Digest, Evaluation, z } from "../index.ts";
import { CutClip } from "./cut.ts";
import { HeldOut } from "./sources.ts";

const Artefact = z.object({ path: z.string(), digest: Digest });

export const Sourced = z.object({ videos: z.string(), captions: z.string(), heldOut: z.array(HeldOut) });
export const Curated = z.object({
  clips: z.int(),
  kept: z.int(),
  dropped: z.array(z.object({ rule: z.string(), clips: z.int(), kept: z.int() })),
  set: Artefact,
  table: Artefact,
});
export const Cut = z.object({ clips: z.array(CutClip) });
export const Trained = z.object({
  path: z.string(),
  digest: Digest,
  steps: z.int(),
  lossLog: z.string(),
  snapshots: z.array(z.object({ digest: Digest })),
});
export const Adapted = z.object({ path: z.string(), psnr: z.number() });
export const Merged = Artefact;
export const Made = z.object({
  items: z.array(z.object({ prompt: z.string(), seed: z.int(), path: z.string(), digest: Digest })),
});
export const Refined = z.object({ path: z.string(), latents: z.string().optional() });
export const Judged = z.object({ results: z.record(z.string(), Evaluation) });
