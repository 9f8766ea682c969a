// ffmpeg: WAVER_FFMPEG, PATH, ffmpeg-static, the distribution's package, else the imageio-ffmpeg wheel.
import { chmodSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cache, unfinished } from "./cache.mjs";
import { download, unpack } from "./pip.mjs";
import { isExecutable, megabytes, run, SetupError, say, which } from "./process.mjs";
import { hasPip, installFromDistribution } from "./system.mjs";

export function findFfmpeg(root) {
  const named = process.env.WAVER_FFMPEG;
  if (named) {
    if (isExecutable(named)) return { path: named, source: "WAVER_FFMPEG" };
    throw new SetupError(`WAVER_FFMPEG=${named} is not an executable file: correct it or unset it.`);
  }
  const onPath = which("ffmpeg");
  if (onPath) return { path: onPath, source: "PATH" };
  // Its install script downloads the binary and does not run here, so the file itself is what counts.
  const fromNpm = join(root, "node_modules", "ffmpeg-static", "ffmpeg");
  if (isExecutable(fromNpm)) return { path: fromNpm, source: "ffmpeg-static" };
  const cached = join(cache, "ffmpeg", "ffmpeg");
  return isExecutable(cached) ? { path: cached, source: "imageio-ffmpeg" } : null;
}

/** The same with its version, or with what is wrong with it. */
export async function withVersion(found) {
  if (found === null) return null;
  const { stdout } = await run(found.path, ["-version"]);
  const version = /^ffmpeg version (\S+)/.exec(stdout)?.[1];
  if (version) return { ...found, version };
  throw new SetupError(`${found.path} does not answer as ffmpeg does`);
}

export async function installFfmpeg(root) {
  if (await installFromDistribution(["ffmpeg"], { optional: true })) {
    const found = findFfmpeg(root);
    if (found) return found;
  }
  if (!(await hasPip())) await installFromDistribution(["pip"]);
  say("fetching ffmpeg from the imageio-ffmpeg wheel");
  const wheels = join(unfinished, "wheels");
  const folder = join(unfinished, "ffmpeg");
  const reason = await download(["imageio-ffmpeg"], wheels, { label: "ffmpeg" });
  if (reason) {
    throw new SetupError(
      `ffmpeg could not be fetched (${reason}): install ffmpeg 5 or newer, or set WAVER_FFMPEG to one, and run this again.`,
    );
  }
  const { made } = await unpack(wheels, folder, { keep: "imageio_ffmpeg/binaries/ffmpeg-" });
  const [name, bytes] = made[0] ?? [];
  if (!name)
    throw new SetupError(
      "The imageio-ffmpeg wheel for this machine holds no ffmpeg: install ffmpeg 5 or newer and run this again.",
    );
  const home = join(cache, "ffmpeg");
  rmSync(home, { recursive: true, force: true });
  mkdirSync(home, { recursive: true });
  chmodSync(join(folder, name), 0o755);
  renameSync(join(folder, name), join(home, "ffmpeg"));
  say(`installed ffmpeg: ${megabytes(bytes)}`);
  return { path: join(home, "ffmpeg"), source: "imageio-ffmpeg" };
}
