/**
 * What ranks send is what the formula says: counted on the interface of a network namespace that holds nothing else.
 * The long suite (`bun test/run.ts test/ranks --long`) sends 64 MB a step and more, and holds them to 5 %.
 */
import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Counted } from "./traffic.ts";

const LONG = ["long", "release"].includes(process.env["WAVER_TEST_SIZE"] ?? "");
const MEGABYTES = LONG ? 64 : 1;
/** Of little data, the heads of small packets are a larger part: more of them when the machine is busy. */
const LIMIT = LONG ? 0.05 : 0.1;

/** A new network namespace, as root or as whoever may be root in a user namespace of his own; null where neither is allowed. */
const namespace = [["-n"], ["-U", "-r", "-n"]].find(
  (flags) =>
    Bun.which("unshare") !== null && Bun.which("ip") !== null && inside(flags, "ip link set lo up").exitCode === 0,
);
function inside(flags: readonly string[], command: string): Bun.SyncSubprocess {
  return Bun.spawnSync(["unshare", ...flags, "--", "sh", "-c", command], { stderr: "pipe" });
}
if (namespace === undefined)
  console.log("skipped: bytes on the wire, because network namespaces are refused here (unshare -n, ip)");

test.skipIf(namespace === undefined)("bytes on the interface are those of the formula", () => {
  const program = join(import.meta.dir, "traffic.ts");
  const run = `ip link set lo up && exec "${process.execPath}" --no-install "${program}" ${LONG ? "long" : "short"}`;
  const { stdout, stderr, exitCode } = inside(namespace as string[], run);
  expect(exitCode, stderr?.toString()).toBe(0);
  const counted = (stdout?.toString() ?? "")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Counted);
  expect(counted.length).toBe(6);
  for (const { name, measured, formula } of counted) {
    console.log(`${name}: ${(measured / 1e6).toFixed(2)} MB, formula ${(formula / 1e6).toFixed(2)} MB`);
    expect(formula).toBeGreaterThanOrEqual(MEGABYTES * 1e6);
    expect(Math.abs(measured / formula - 1)).toBeLessThanOrEqual(LIMIT);
  }
});
