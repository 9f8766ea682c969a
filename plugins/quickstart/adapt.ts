/** The VAE's turn: what ships is adapted to the clips at hand, as a child job that a person sees. */
import { join } from "node:path";
import { Adapted, Cut } from "./outputs.ts";
import { HIGH, type Profile, vaeStage } from "./profile.ts";
import { named, type Steps } from "./steps.ts";

/** Folder of a VAE adapted to a set's clips. They are cut at the refiner's size: the VAE codes both. */
export async function adaptedVae(set: string, seed: number, profile: Profile, root: string, steps: Steps): Promise<string> {
  const { clips } = await steps.run(
    "Cut clips for the VAE",
    "quickstart-clips",
    { set, shape: HIGH, output: join(root, "clips-large") },
    Cut,
  );
  const input = { sources: clips.map(({ video }) => video), ...vaeStage(profile, seed) };
  const { path } = await steps.run(
    "Adapt the VAE to the clips",
    "train-vae",
    { ...input, output: named(join(root, "models"), "vae", input) },
    Adapted,
  );
  return path;
}
