/**
 * `npm run -s bench -- NAME [--json] [--rounds N] [--threads N] [--clock cpu] [--profile] [--against diffusers]`: how fast, beside the reference.
 *
 * One run interleaves both sides, A B A B ..., and reports ratios of medians: a machine's mood changes within seconds, and a
 * figure from another minute says nothing. The peaks of the machine are measured in the same rounds. The last line of
 * `--json` is {"name", "ratios", "peaks", "versions", ...}; a ratio above 1 means that Waver is faster, except in `ops`, where
 * it is our time over theirs. `--clock cpu` counts the process's own processor time, for a machine that others use as well.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { setThreads } from "../../native/index.ts";
import { type Bench, type Clock, useClock } from "./bench.ts";
import { dit } from "./dit.ts";
import { ops } from "./ops.ts";
import { Peer } from "./peer.ts";
import { vae } from "./vae.ts";

const benches: Readonly<Record<string, Bench>> = { dit, vae, ops };
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "9" },
    threads: { type: "string", default: "1" },
    profile: { type: "boolean", default: false },
    clock: { type: "string", default: "wall" },
    against: { type: "string", default: "diffusers" },
  },
});
const bench = benches[positionals[0] ?? ""];
const [rounds, threads] = [Number(values.rounds), Number(values.threads)];
const refused =
  bench === undefined
    ? `which one? ${Object.keys(benches).join(", ")}`
    : values.against !== "diffusers"
      ? `--against ${values.against}: only diffusers (with PyTorch) is a reference here`
      : !(Number.isInteger(rounds) && rounds >= 3 && Number.isInteger(threads) && threads >= 1)
        ? "--rounds from 3 up and --threads from 1 up are expected"
        : values.clock !== "wall" && (values.clock !== "cpu" || threads !== 1)
          ? "--clock is wall, or cpu with one thread"
          : undefined;
const clock = values.clock as Clock;
if (refused !== undefined || bench === undefined) {
  console.error(`bench: ${refused}`);
  process.exit(2);
}
process.env.OMP_WAIT_POLICY ??= "PASSIVE";
setThreads(threads);
useClock(clock);
const folder = await mkdtemp(join(tmpdir(), "waver-bench-"));
try {
  await using peer = await Peer.start(threads, clock);
  const log = (line: string): void => (values.json ? console.error(line) : console.log(line));
  const { ratios, peaks, ...more } = await bench({ peer, folder, rounds, profile: values.profile, log });
  const { version } = (await Bun.file(join(import.meta.dir, "../../native/build/build.json")).json()) as {
    version: string;
  };
  const versions = { ...peer.versions, libtorch: version, bun: Bun.version };
  const result = { name: positionals[0], ratios, peaks, versions, rounds, threads, clock, ...more };
  console.log(values.json ? JSON.stringify(result) : JSON.stringify(result, null, 2));
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true, force: true });
}
