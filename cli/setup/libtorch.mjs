// libtorch: WAVER_LIBTORCH, the cache, an installed Python torch, else PyTorch's wheel, of which only the C++ part is kept.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { atLeast } from "./bun.mjs";
import { cache, needSpace, unfinished } from "./cache.mjs";
import { download, unpack } from "./pip.mjs";
import { megabytes, run, SetupError, say, which } from "./process.mjs";
import { hasPip, installFromDistribution } from "./system.mjs";

/** What the tests were made with; the wheel's own metadata names the CUDA libraries that fit it. */
const pinned = "2.15.0";
/** The oldest whose operator schemas the engine uses. */
export const oldest = "2.11.0";

/** Whether the CUDA half is wanted: WAVER_CUDA=1 or 0 decides, else a GPU that is seen. */
export function wantsCuda() {
  if (process.env.WAVER_CUDA) return process.env.WAVER_CUDA !== "0";
  return existsSync("/dev/nvidia0") || (existsSync("/dev/dxg") && which("nvidia-smi") !== null);
}

/** Describes a folder with lib/ and include/, or null when it is not a whole libtorch. */
function describe(folder, source) {
  const has = (...path) => existsSync(join(folder, ...path));
  if (!has("lib", "libtorch_cpu.so") || !has("lib", "libc10.so") || !has("include", "ATen")) return null;
  const file = ["version.py", "build-version"].map((name) => join(folder, name)).find(existsSync);
  const text = file ? readFileSync(file, "utf8") : "";
  const version = text.match(/(\d+\.\d+\.\d+)/)?.[1] ?? "unknown";
  return { path: folder, version, source, cuda: has("lib", "libtorch_cuda.so") };
}

/** True when the files still have the sizes they were unpacked with (a power cut can leave empty ones). */
function isWhole(home) {
  const record = join(home, "files.json");
  if (!existsSync(record)) return true;
  return JSON.parse(readFileSync(record, "utf8")).every(
    ([name, bytes]) => statSync(join(home, name), { throwIfNoEntry: false })?.size === bytes,
  );
}

function cached(cuda) {
  const root = join(cache, "libtorch");
  if (!existsSync(root)) return null;
  const newestFirst = readdirSync(root).sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  for (const name of newestFirst) {
    const home = join(root, name);
    const found = describe(join(home, "torch"), "cache");
    if (found && isWhole(home) && (!cuda || found.cuda)) return found;
  }
  return null;
}

async function installedInPython(cuda) {
  const python = which("python3");
  if (!python) return null;
  const probe =
    "import importlib.util as u; s = u.find_spec('torch'); print((s and s.submodule_search_locations or [''])[0])";
  const { code, stdout } = await run(python, ["-c", probe]);
  if (code !== 0 || !stdout.trim()) return null;
  const found = describe(stdout.trim(), "python");
  if (!found) return null;
  if (!atLeast(found.version, oldest)) {
    say(`Python's torch is ${found.version}; ${oldest} or newer is needed, so it is left alone`);
    return null;
  }
  return cuda && !found.cuda ? null : found;
}

export async function findLibtorch() {
  const named = process.env.WAVER_LIBTORCH;
  if (named) {
    const found = describe(named, "WAVER_LIBTORCH") ?? describe(join(named, "torch"), "WAVER_LIBTORCH");
    if (found) return found;
    throw new SetupError(
      `WAVER_LIBTORCH=${named} holds no libtorch: name a folder with lib/libtorch_cpu.so and include/ATen, or unset it.`,
    );
  }
  const cuda = wantsCuda();
  return cached(cuda) ?? (await installedInPython(cuda));
}

/**
 * The requirements, among a wheel's own, that bring the CUDA libraries: all of them, and the headers without which ranks on
 * GPUs are not compiled; or the two the CPU library links.
 */
export function cudaRequirements(requires, cuda) {
  const plain = requires.map((line) => line.split(";")[0].trim());
  if (cuda)
    return plain
      .filter((line) => /^(cuda-toolkit|nvidia-)/.test(line))
      .map((line) => line.replace(/^cuda-toolkit\[/, "cuda-toolkit[crt,"));
  return plain
    .filter((line) => /^(cuda-toolkit\b|nvidia-cuda-(runtime|cupti)\b)/.test(line))
    .map((line) => line.replace(/^cuda-toolkit\[[^\]]*\]/, "cuda-toolkit[cudart,cupti]"));
}

function refuseWhereNoWheelRuns() {
  const glibc = process.report.getReport().header.glibcVersionRuntime;
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch) || !glibc || !atLeast(glibc, "2.28.0")) {
    throw new SetupError(
      `PyTorch's libraries need Linux on x64 or arm64 with glibc 2.28 or newer (this is ${process.platform} ${process.arch}, glibc ${glibc ?? "absent"}): use such a machine or container, or set WAVER_LIBTORCH to a libtorch ${oldest} or newer made for this one.`,
    );
  }
}

export async function installLibtorch() {
  refuseWhereNoWheelRuns();
  const cuda = wantsCuda();
  // Measured peaks plus a third: pip holds a wheel twice for a moment, then wheel and unpacked part lie side by side.
  needSpace(cuda ? 9e9 : 1.6e9, `libtorch${cuda ? " with CUDA" : ""}`);
  if (!(await hasPip())) await installFromDistribution(["pip"]);
  const wheels = join(unfinished, "wheels");
  const home = join(unfinished, "libtorch");
  const start = performance.now();
  say(
    `fetching libtorch ${pinned}${cuda ? " with its CUDA libraries (about 2.7 GB)" : " (about 540 MB)"}; done once for this cache`,
  );
  let reason = await download([`torch==${pinned}`], wheels, { label: "torch" });
  if (reason) {
    say(`torch ${pinned} could not be had (${reason}); trying the newest there is`);
    reason = await download([`torch>=${oldest}`], wheels, { label: "torch" });
  }
  if (reason) throw failure(reason);
  const torch = await unpack(wheels, home, {
    keep: "torch/(lib|include|share)/|torch/version\\.py$",
    drop: `torch/lib/(libtorch_python|libtorch_global_deps${cuda ? "" : "|libtorch_cuda|libc10_cuda|libcaffe2_nvrtc|libtorch_nvshmem"})`,
  });
  const requirements = cudaRequirements(torch.requires, cuda);
  const made = [...torch.made];
  if (requirements.length) {
    reason = await download(requirements, wheels, { label: "CUDA's libraries", deps: true });
    if (reason) throw failure(reason);
    const keep = cuda ? "nvidia/.+/lib/.+\\.so|nvidia/(cu\\d+|nccl)/include/" : "nvidia/.+/lib/lib(cudart|cupti)\\.so";
    made.push(...(await unpack(wheels, home, { keep })).made);
  }
  const libraries = made.filter(([name]) => name.includes(".so"));
  writeFileSync(join(home, "files.json"), JSON.stringify(libraries));
  const final = join(cache, "libtorch", cuda ? `${torch.version}-cuda` : torch.version);
  mkdirSync(join(cache, "libtorch"), { recursive: true });
  rmSync(final, { recursive: true, force: true });
  renameSync(home, final);
  const bytes = made.reduce((sum, [, size]) => sum + size, 0);
  say(
    `installed libtorch ${torch.version}: ${megabytes(bytes)} in ${((performance.now() - start) / 1000).toFixed(1)} s`,
  );
  return describe(join(final, "torch"), "cache");
}

function failure(reason) {
  return new SetupError(
    `libtorch could not be fetched with pip (${reason}): make a Python package index reachable for pip, or set WAVER_LIBTORCH to an unpacked libtorch ${oldest} or newer, and run this again.`,
  );
}
