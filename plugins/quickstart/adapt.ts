/** The VAE's turn: what ships is adapted to the clips at hand, as a child job that a person sees. */
import { join } from "node:path";
import type { z } from "../index.ts";
import { Adapted, Cut } from "./outputs.ts";
import { HIGH, type Profile, vaeStage } from "./profile.ts";
import { named, type Steps } from "./steps.ts";

/** A VAE adapted to a set's clips, and how well it keeps them. They are cut at the refiner's size: the VAE codes both. */
export async function adaptedVae(
  set: string,
  seed: number,
  profile: Profile,
  root: string,
  steps: Steps,
): Promise<z.output<typeof Adapted>> {
  const { clips } = await steps.run(
    "Cut clips for the VAE",
    "quickstart-clips",
    { set, shape: HIGH, output: join(root, "clips-large") },
    Cut,
  );
  const input = { sources: clips.map(({ video }) => video), ...vaeStage(profile, seed) };
  return steps.run(
    "Adapt the VAE to the clips",
    "train-vae",
    { ...input, output: named(join(root, "models"), "vae", input) },
    Adapted,
  );
}
