#!/usr/bin/env node
// Set-up: from a bare clone and Node 20 to a working tree, then on to Bun. Idempotent, asks nothing, needs no package.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { delimiter, dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { findBun, installBun, oldest as oldestBun } from "./setup/bun.mjs";
import { bin, cache, locked, readStamp, readText, writeAtomic, writeStamp } from "./setup/cache.mjs";
import { findFfmpeg, installFfmpeg, withVersion } from "./setup/ffmpeg.mjs";
import { findLibtorch, installLibtorch, oldest as oldestLibtorch, wantsCuda } from "./setup/libtorch.mjs";
import { handOver, lastError, narrated, run, SetupError, say, which } from "./setup/process.mjs";
import { hasPip, installFromDistribution, missingBuildTools } from "./setup/system.mjs";

const usage = `usage: node cli/setup.mjs [quickstart | test | parity | bench | build | doctor-json] [options of that command]

Installs what is missing (Bun, packages, compiler, libtorch, the native addon, ffmpeg), then runs the command.
  quickstart    the main job, whole: real video in, a trained nano model and a report out
  test          the test suite
  parity        stored outputs of reference implementations, held against this one: parity FOLDER ...
  bench         beside PyTorch and diffusers: bench dit | vae | ops
  build         the native addon
  doctor-json   installs nothing; prints what is there as JSON

WAVER_CACHE     where downloads are kept (now ${cache})
WAVER_LIBTORCH  a libtorch of your own        WAVER_FFMPEG  an ffmpeg of your own
WAVER_CUDA      1 or 0: with or without CUDA libraries, whatever GPU is seen here
`;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const commands = {
  quickstart: ["cli/index.ts", "quickstart"],
  test: ["test/run.ts"],
  parity: ["test/parity/run.ts"],
  bench: ["test/bench/run.ts"],
  build: ["native/build.ts"],
};
const marker = join(root, "node_modules", ".waver-setup");
/** Inside someone's node_modules the packages are their package manager's business. */
const isDependency = root.split(sep).includes("node_modules");

/** What the last set-up took for granted; another value means looking at everything again. */
function circumstances() {
  return {
    libtorch: process.env.WAVER_LIBTORCH ?? "",
    ffmpeg: process.env.WAVER_FFMPEG ?? "",
    cuda: wantsCuda(),
    platform: `${process.platform}-${process.arch}`,
    oldest: [oldestBun, oldestLibtorch],
  };
}

function packagesDigest() {
  const hash = createHash("sha256");
  for (const name of ["package.json", "bun.lock"]) hash.update(readText(join(root, name)));
  return hash.digest("hex");
}

function packagesReady() {
  return isDependency || readText(marker) === packagesDigest();
}

function toolsReady(stamp) {
  if (!stamp || JSON.stringify(stamp.circumstances) !== JSON.stringify(circumstances())) return false;
  const libtorch = join(stamp.libtorch.path, "lib", "libtorch_cpu.so");
  return [stamp.bun.path, join(bin, "bun"), libtorch, stamp.ffmpeg.path].every((path) => existsSync(path));
}

/** Machine-wide parts, into the cache. */
async function installTools() {
  const bun = (await findBun()) ?? (await installBun());
  const missing = missingBuildTools();
  if (missing.length) await installFromDistribution(missing);
  const known = { libtorch: await findLibtorch(), ffmpeg: findFfmpeg(root) }; // a wrong setting fails before any download
  const libtorch = known.libtorch ?? (await installLibtorch());
  const ffmpeg = known.ffmpeg ?? (await installFfmpeg(root));
  link("bun", bun.path);
  if (ffmpeg.source === "PATH") rmSync(join(bin, "ffmpeg"), { force: true });
  else link("ffmpeg", ffmpeg.path);
  const stamp = { circumstances: circumstances(), bun, libtorch, ffmpeg };
  writeStamp(stamp);
  return stamp;
}

function link(name, target) {
  mkdirSync(bin, { recursive: true });
  const temporary = join(bin, `.${name}.${process.pid}`);
  symlinkSync(target, temporary);
  renameSync(temporary, join(bin, name));
}

async function installPackages(bun) {
  say("installing the packages of bun.lock");
  const { code, all, seconds } = await run(bun.path, ["install", "--frozen-lockfile", "--no-progress"], { cwd: root });
  if (code !== 0) {
    throw new SetupError(
      `bun install failed (${lastError(all)}): make the npm registry reachable (or run \`bun install\` if you changed package.json) and run this again.`,
    );
  }
  const count = all.match(/(\d+) packages? installed/)?.[1];
  say(`installed ${count ? `${count} packages` : "packages"} in ${seconds.toFixed(1)} s`);
  writeAtomic(marker, packagesDigest());
}

/** build.ts decides by itself whether anything changed. */
async function buildAddon({ bun, libtorch }) {
  const onLine = (line) => line && !line.includes("up to date") && say(line);
  const env = { WAVER_LIBTORCH: libtorch.path };
  const build = run(bun.path, [join("native", "build.ts")], { cwd: root, env, onLine });
  const { code, seconds } = await narrated(build, 20, (s) => `compiling the native addon, ${s} s so far`);
  if (code !== 0) {
    throw new SetupError("The native addon could not be built: mend what the lines above name and run this again.");
  }
  if (seconds > 3) say(`built the native addon in ${seconds.toFixed(0)} s`);
}

async function prepare() {
  const start = performance.now();
  let stamp = readStamp();
  if (toolsReady(stamp) && packagesReady()) {
    await buildAddon(stamp);
  } else {
    stamp = await locked(async () => {
      const seen = readStamp(); // another set-up may have just finished
      const tools = toolsReady(seen) ? seen : await installTools();
      if (!packagesReady()) await installPackages(tools.bun);
      await buildAddon(tools);
      return tools;
    });
  }
  const { bun, libtorch, ffmpeg } = stamp;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const torch = `libtorch ${libtorch.version}${libtorch.cuda ? " with CUDA" : ""} (${libtorch.source})`;
  say(`ready in ${seconds} s: Bun ${bun.version}, ${torch}, ffmpeg (${ffmpeg.source})`);
  return stamp;
}

/** What is there, found out without changing anything. */
async function doctor() {
  const attempt = async (find) => {
    try {
      return await find();
    } catch (error) {
      if (error instanceof SetupError) return { problem: error.message };
      throw error;
    }
  };
  const addon = join(root, "native", "build", "build.json");
  return {
    cache,
    bun: await findBun(),
    packages: packagesReady(),
    tools: { compiler: which("c++"), cmake: which("cmake"), ninja: which("ninja"), pip: await hasPip() },
    libtorch: await attempt(findLibtorch),
    cuda: wantsCuda(),
    addon: existsSync(addon) ? JSON.parse(readFileSync(addon, "utf8")) : null,
    ffmpeg: await attempt(async () => withVersion(findFfmpeg(root))),
  };
}

async function main([command, ...rest]) {
  if (command === "--help" || command === "-h") return void process.stdout.write(usage);
  if (command === "doctor-json") return void process.stdout.write(`${JSON.stringify(await doctor(), null, 2)}\n`);
  if (command && !Object.hasOwn(commands, command)) {
    throw new SetupError(
      `\`${command}\` is not a command of set-up: use ${[...Object.keys(commands), "doctor-json"].join(", ")}, or none.`,
    );
  }
  const { bun } = await prepare();
  if (!command) return;
  const [file, ...fixed] = commands[command];
  const given = rest[0] === "--" ? rest.slice(1) : rest;
  const env = { ...process.env, PATH: `${process.env.PATH ?? ""}${delimiter}${bin}` };
  handOver(bun.path, [join(root, file), ...fixed, ...given], env);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof SetupError) say(error.message);
  else if (error.syscall)
    say(`${error.message}: free space or mend the rights there, or set WAVER_CACHE to another folder.`);
  else throw error;
  process.exitCode = 1;
}
