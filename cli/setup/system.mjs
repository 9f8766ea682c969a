// What only the distribution can bring: a compiler, CMake, Ninja, pip, ffmpeg.
import { lastError, run, SetupError, say, which } from "./process.mjs";

const managers = [
  {
    name: "apt-get",
    refresh: ["update", "-q"],
    install: ["install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"],
  },
  { name: "dnf", refresh: ["makecache", "-q"], install: ["install", "-y", "-q", "--setopt=install_weak_deps=False"] },
  { name: "apk", refresh: ["update", "-q"], install: ["add", "-q", "--no-cache"] },
];

const packages = {
  compiler: { "apt-get": ["g++"], dnf: ["gcc-c++"], apk: ["g++"] },
  cmake: { "apt-get": ["cmake"], dnf: ["cmake"], apk: ["cmake"] },
  ninja: { "apt-get": ["ninja-build"], dnf: ["ninja-build"], apk: ["samurai"] },
  pip: { "apt-get": ["python3", "python3-pip"], dnf: ["python3", "python3-pip"], apk: ["python3", "py3-pip"] },
  ffmpeg: { "apt-get": ["ffmpeg"], dnf: ["ffmpeg-free"], apk: ["ffmpeg"] },
};

const words = {
  compiler: "a C++20 compiler (g++ 11 or newer, or clang++)",
  cmake: "CMake 3.18 or newer",
  ninja: "Ninja or make",
  pip: "Python 3 with pip",
  ffmpeg: "ffmpeg",
};

/** The tools that the addon's build needs and PATH lacks. */
export function missingBuildTools() {
  const missing = [];
  if (!which("c++")) missing.push("compiler");
  if (!which("cmake")) missing.push("cmake");
  if (!which("ninja") && !which("make")) missing.push("ninja");
  return missing;
}

export async function hasPip() {
  const python = which("python3");
  return python !== null && (await run(python, ["-m", "pip", "--version"])).code === 0;
}

/** How this user installs distribution packages, or null: no known manager, or neither root nor sudo without a password. */
async function installer() {
  const manager = managers.find(({ name }) => which(name));
  if (!manager) return null;
  if (process.getuid?.() === 0) return { manager, prefix: [] };
  const sudo = which("sudo");
  if (sudo && (await run(sudo, ["-n", "true"])).code === 0) return { manager, prefix: [sudo, "-n"] };
  return null;
}

/** Installs what `wanted` names (keys of `packages`); `optional` returns false where the others throw. */
export async function installFromDistribution(wanted, { optional = false } = {}) {
  const how = await installer();
  const manager = how?.manager ?? managers.find(({ name }) => which(name));
  const names = manager ? wanted.flatMap((tool) => packages[tool][manager.name]) : [];
  const byHand = `install ${wanted.map((tool) => words[tool]).join(", ")}${manager ? ` (\`${manager.name} ${manager.name === "apk" ? "add" : "install"} ${names.join(" ")}\` as root)` : ""} and run this again.`;
  if (!how) {
    if (optional) return false;
    throw new SetupError(`Missing: ${wanted.join(", ")}, and this user may not install packages: ${byHand}`);
  }
  say(`installing ${names.join(" ")} with ${manager.name}`);
  const call = (args) => {
    const [command, ...rest] = [...how.prefix, "env", "DEBIAN_FRONTEND=noninteractive", manager.name, ...args];
    return run(command, rest);
  };
  let result = await call([...manager.install, ...names]);
  if (result.code !== 0) {
    // No package lists yet (a bare image), or lists so old that the files they name are gone.
    const refresh = await call(manager.refresh);
    result = refresh.code === 0 ? await call([...manager.install, ...names]) : refresh;
  }
  if (result.code !== 0) {
    if (optional) return false;
    throw new SetupError(`${manager.name} could not install ${names.join(" ")} (${lastError(result.all)}): ${byHand}`);
  }
  const size = result.all.match(/After this operation, (.+?) of additional disk space/)?.[1];
  say(`installed ${names.join(" ")}${size ? `: ${size}` : ""} in ${result.seconds.toFixed(1)} s`);
  return true;
}
