// Bun: the one on PATH when it is new enough, else npm's package for this platform in the cache.
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { cache, needSpace, unfinished } from "./cache.mjs";
import { bytesBelow, lastError, megabytes, run, SetupError, say, which } from "./process.mjs";

/** What the lock file and the tests were made with. */
const pinned = "1.4.5";
/** Older ones lack things the tree uses (Bun.SQL drivers, HTML imports in `serve`). */
export const oldest = "1.4.0";

export function atLeast(version, floor) {
  const [a, b] = [version, floor].map((text) => text.split(/[.+-]/).slice(0, 3).map(Number));
  for (let i = 0; i < 3; i++) if ((a[i] || 0) !== (b[i] || 0)) return (a[i] || 0) > (b[i] || 0);
  return true;
}

/**
 * npm's `bun` is a placeholder that an install script replaces, and npm 11 may refuse to run install scripts;
 * the binary itself is in the platform's package, which needs none.
 */
function platformPackage() {
  const musl = process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime;
  const cpu = { x64: "x64", arm64: "aarch64" }[process.arch] ?? process.arch;
  return `@oven/bun-${process.platform}-${cpu}${musl ? "-musl" : ""}`;
}

async function versionOf(bun) {
  const { code, stdout } = await run(bun, ["--version"]);
  return code === 0 ? stdout.trim() : null; // npm's placeholder exits 1
}

export async function findBun() {
  const own = process.versions.bun ? process.execPath : null;
  const cached = join(cache, "bun", pinned, "node_modules", platformPackage(), "bin", "bun");
  for (const path of [own, which("bun"), cached]) {
    if (!path || !existsSync(path)) continue;
    const version = await versionOf(path);
    if (version && atLeast(version, oldest)) return { path, version };
  }
  return null;
}

export async function installBun() {
  const name = platformPackage();
  const viaNpm = process.env.npm_execpath?.endsWith("npm-cli.js");
  const npm = viaNpm ? [process.execPath, process.env.npm_execpath] : [which("npm")];
  if (!npm[0]) {
    throw new SetupError(
      `Bun ${oldest} or newer is missing and npm was not found: install Bun or npm and run this again.`,
    );
  }
  needSpace(400e6, `Bun ${pinned}`);
  say(`installing Bun ${pinned} (${name}) from npm`);
  const folder = join(unfinished, "bun");
  mkdirSync(folder, { recursive: true });
  const flags = ["--prefix", folder, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const result = await run(npm[0], [...npm.slice(1), "install", ...flags, `${name}@${pinned}`], { cwd: folder });
  const binary = join(folder, "node_modules", name, "bin", "bun");
  const version = existsSync(binary) ? await versionOf(binary) : null;
  if (result.code !== 0 || !version) {
    throw new SetupError(
      `Bun could not be installed from npm (${lastError(result.all)}): install Bun ${oldest} or newer yourself so that \`bun\` is on PATH, and run this again.`,
    );
  }
  const home = join(cache, "bun", pinned);
  mkdirSync(dirname(home), { recursive: true });
  rmSync(home, { recursive: true, force: true });
  renameSync(folder, home);
  say(`installed Bun ${version}: ${megabytes(bytesBelow(home))} in ${result.seconds.toFixed(1)} s`);
  return { path: join(home, "node_modules", name, "bin", "bun"), version };
}
