// Builds the addon: `bun native/build.ts`. Finds libtorch, runs CMake, skips when nothing changed.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "build");

export interface BuildRecord {
  libtorch: string;
  version: string;
  cuda: boolean;
  /** Whether ranks on GPUs can talk. */
  nccl: boolean;
  digest: string;
}

class BuildFailure extends Error {}

/** A folder with lib/libtorch_cpu.so and include/, given either itself or the folder that holds torch/. */
function torchFolder(folder: string): string | null {
  for (const dir of [folder, join(folder, "torch")]) {
    if (existsSync(join(dir, "lib", "libtorch_cpu.so")) && existsSync(join(dir, "include", "ATen"))) return dir;
  }
  return null;
}

function byVersion(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}

/** Environment, then our cache (newest version), then an installed Python torch. */
export function findLibtorch(): string {
  const named = process.env.WAVER_LIBTORCH;
  if (named) {
    const dir = torchFolder(named);
    if (!dir)
      throw new BuildFailure(
        `WAVER_LIBTORCH=${named} holds no libtorch (lib/libtorch_cpu.so and include/ATen were looked for)`,
      );
    return dir;
  }
  const xdg = process.env.XDG_CACHE_HOME;
  const cache = join(
    process.env.WAVER_CACHE ?? (xdg ? join(xdg, "waver") : join(homedir(), ".cache", "waver")),
    "libtorch",
  );
  if (existsSync(cache)) {
    for (const version of readdirSync(cache).sort(byVersion).reverse()) {
      const dir = torchFolder(join(cache, version));
      if (dir) return dir;
    }
  }
  const python = Bun.which("python3");
  if (python) {
    const probe =
      "import importlib.util as u;s=u.find_spec('torch');print(s.submodule_search_locations[0] if s else '')";
    const dir = torchFolder(Bun.spawnSync([python, "-c", probe]).stdout.toString().trim() || "/nonexistent");
    if (dir) return dir;
  }
  throw new BuildFailure(
    `libtorch was not found: set WAVER_LIBTORCH, or run \`npm run setup\`, which puts it into ${cache}`,
  );
}

function libtorchVersion(torch: string): string {
  const header = join(torch, "include", "torch", "headeronly", "version.h");
  const text = existsSync(header) ? readFileSync(header, "utf8") : "";
  const fromHeader = text.match(/TORCH_VERSION "([^"]+)"/)?.[1];
  if (fromHeader) return fromHeader;
  const python = join(torch, "version.py");
  return (existsSync(python) && readFileSync(python, "utf8").match(/__version__ = '([^']+)'/)?.[1]) || "unknown";
}

/** Vector flags for the fused kernels: what this machine's processor has. */
function kernelFlags(): string {
  const cpu = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  const has = (...flags: string[]) => flags.every((f) => new RegExp(`\\b${f}\\b`).test(cpu));
  const common = "-O3 -fopenmp-simd -fno-math-errno -fno-trapping-math";
  if (has("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")) {
    return `${common} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mprefer-vector-width=512`;
  }
  return has("avx2", "fma") ? `${common} -mavx2 -mfma` : common;
}

function hasCuda(torch: string): boolean {
  return existsSync(join(torch, "lib", "libtorch_cuda.so"));
}

/** Headers of CUDA and NCCL, which groups of ranks on GPUs are compiled with and nothing else. */
const CUDA_HEADERS = ["cuda_runtime_api.h", "crt/host_config.h", "nccl.h"] as const;

/** Where they are looked for, in order. */
function headerFolders(torch: string): string[] {
  const beside = join(torch, "..", "nvidia"); // as pip lays out the packages that torch comes with
  const home = process.env.CUDA_HOME;
  return [
    ...(process.env.WAVER_CUDA_HEADERS ?? "").split(":").filter((folder) => folder !== ""),
    join(beside, "cu13", "include"),
    join(beside, "nccl", "include"),
    ...(home === undefined ? [] : [join(home, "include")]),
    ...["/usr/local/cuda/include", "/usr/local/include", "/usr/include"],
  ];
}

/** The folders that hold them, or which of them none holds. */
function findCudaHeaders(torch: string): { folders: string[]; missing: string[] } {
  const folders = headerFolders(torch);
  const found = CUDA_HEADERS.map((name) => folders.find((folder) => existsSync(join(folder, name))));
  return {
    folders: [...new Set(found.filter((folder) => folder !== undefined))],
    missing: CUDA_HEADERS.filter((_, i) => found[i] === undefined),
  };
}

function digestOf(torch: string, flags: string, headers: readonly string[]): string {
  const hash = createHash("sha256");
  for (const folder of ["src", "gloo"])
    for (const name of readdirSync(join(here, folder), { recursive: true, encoding: "utf8" }).sort())
      if (/\.(cc|h)$/.test(name)) hash.update(name).update(readFileSync(join(here, folder, name)));
  hash
    .update(readFileSync(join(here, "CMakeLists.txt")))
    .update(torch)
    .update(libtorchVersion(torch))
    .update(flags)
    .update(String(hasCuda(torch)))
    .update(headers.join(":"));
  return hash.digest("hex");
}

function run(what: string, command: string[]): void {
  const p = Bun.spawnSync(command, { stdout: "pipe", stderr: "pipe" });
  if (p.exitCode === 0) return;
  const text = p.stdout.toString() + p.stderr.toString();
  const lines = text
    .split("\n")
    .filter((l) => /error|Error/.test(l))
    .slice(0, 12);
  throw new BuildFailure(`${what} failed:\n${(lines.length ? lines : text.split("\n").slice(-12)).join("\n")}`);
}

/** Builds native/build/waver.node when it is missing or out of date; returns what it was built against. */
export function buildNative({ force = false }: { force?: boolean } = {}): BuildRecord {
  const torch = findLibtorch();
  const flags = kernelFlags();
  const cuda = hasCuda(torch);
  const { folders, missing } = findCudaHeaders(torch);
  const ncclHeaders = cuda && missing.length === 0 ? folders : [];
  const record: BuildRecord = {
    libtorch: torch,
    version: libtorchVersion(torch),
    cuda,
    nccl: ncclHeaders.length > 0,
    digest: digestOf(torch, flags, ncclHeaders),
  };
  const recordFile = join(out, "build.json");
  const addon = join(out, "waver.node");
  if (!force && existsSync(addon) && existsSync(recordFile)) {
    const built = JSON.parse(readFileSync(recordFile, "utf8")) as BuildRecord;
    if (built.digest === record.digest) {
      console.log(`native: up to date (libtorch ${record.version})`);
      return record;
    }
  }
  for (const tool of ["cmake", "c++"]) {
    if (!Bun.which(tool))
      throw new BuildFailure(`${tool} was not found: install a C++20 compiler and CMake 3.18 or newer`);
  }
  const headers = join(here, "..", "node_modules", "node-api-headers", "include");
  if (!existsSync(headers))
    throw new BuildFailure("node_modules/node-api-headers is missing: run `npm run setup` or `bun install`");
  console.log(`native: building against libtorch ${record.version}${cuda ? " with CUDA" : ""} at ${torch}`);
  if (cuda)
    console.log(
      record.nccl
        ? `native: ranks on GPUs with NCCL, headers from ${ncclHeaders.join(", ")}`
        : `native: no ranks on GPUs: ${missing.join(", ")} not found (bun native/build.ts --help)`,
    );
  const work = join(out, "cmake");
  mkdirSync(work, { recursive: true });
  const ninja = Bun.which("ninja") ? ["-G", "Ninja"] : [];
  run("cmake", [
    "cmake",
    ...ninja,
    "-S",
    here,
    "-B",
    work,
    "-DCMAKE_BUILD_TYPE=Release",
    `-DTORCH_DIR=${torch}`,
    `-DNODE_API_INCLUDE=${headers}`,
    `-DCUDA_LIB_DIR=${join(torch, "..", "nvidia", "cu13", "lib")}`,
    `-DNCCL_HEADERS=${ncclHeaders.join(";")}`,
    `-DKERNEL_FLAGS=${flags}`,
  ]);
  run("the compiler", ["cmake", "--build", work, "--parallel"]);
  // a rename, so that a process that has the old one open keeps it
  renameSync(join(work, "waver.node"), addon);
  writeFileSync(`${recordFile}.tmp`, `${JSON.stringify(record, null, 2)}\n`);
  renameSync(`${recordFile}.tmp`, recordFile);
  return record;
}

const HELP = `bun native/build.ts [--force]

Builds native/build/waver.node when sources, libtorch or processor have changed.
libtorch: WAVER_LIBTORCH (a folder with lib/ and include/, or the one that holds torch/), else the newest in the cache that
\`npm run setup\` fills, else that of the Python in PATH. With lib/libtorch_cuda.so in it the addon reaches GPUs.
Ranks on GPUs (NCCL) also need ${CUDA_HEADERS.join(", ")}, looked for in the folders of
WAVER_CUDA_HEADERS (with colons between), ../nvidia/cu13/include and ../nvidia/nccl/include beside torch (where pip puts
nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-nccl-cu13), $CUDA_HOME/include, /usr/local/cuda/include, /usr/local/include
and /usr/include. Without them everything else is built.`;

if (import.meta.main) {
  if (process.argv.includes("--help")) {
    console.log(HELP);
    process.exit(0);
  }
  try {
    if (process.argv.includes("--force")) rmSync(join(out, "cmake"), { recursive: true, force: true });
    buildNative({ force: process.argv.includes("--force") });
  } catch (e) {
    if (!(e instanceof BuildFailure)) throw e;
    console.error(`native: ${e.message}`);
    process.exit(1);
  }
}
