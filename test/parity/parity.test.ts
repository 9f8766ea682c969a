import { expect, test } from "bun:test";
import { join } from "node:path";

const parity = async (...args: string[]): Promise<{ code: number; lines: string[] }> => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "run.ts"), ...args], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const text = await new Response(child.stdout).text();
  return { code: await child.exited, lines: text.trim().split("\n") };
};
const golden = join(import.meta.dir, "../golden");

/** The networks and methods that the quick start stands on, as issue 3 names them. */
const must = [
  "pipeline_wan_t2v",
  "vae_wan",
  "vae_wan22",
  "umt5_encoder",
  "wan_t2v_transformer",
  "sched_flow_match_euler",
  "guidance_video_apg_waver",
  "waver_dit",
  "waver_refiner",
  "waver_conditions",
  "waver_sampling",
  "train_rectified_flow",
  "train_timestep_sampling",
  "train_refiner_degradation",
];

test("every golden case in the tree agrees with its reference", async () => {
  const { code, lines } = await parity(golden);
  expect(lines.filter((line) => !line.startsWith("pass "))).toEqual([expect.stringMatching(/^\d+ passed, 0 failed$/)]);
  const passed = new Set(lines.filter((line) => line.startsWith("pass ")).map((line) => line.split(" ")[1]));
  expect(must.filter((name) => !passed.has(name))).toEqual([]);
  expect(code).toBe(0);
}, 600_000);

test("a value out of tolerance fails, with the first that diverged", async () => {
  const folder = `${import.meta.dir}/../../node_modules/.cache/parity-${process.pid}`;
  const source = join(golden, "umt5_encoder");
  await Bun.$`mkdir -p ${folder} && cp -r ${source} ${folder}/broken`.quiet();
  try {
    const file = join(folder, "broken/case.json");
    const description = await Bun.file(file).json();
    description.tolerance["padded.hidden_states.1"].max_abs = 1e-12;
    await Bun.write(file, JSON.stringify(description));
    const { code, lines } = await parity(folder, "--tap");
    expect(lines[0]).toMatch(/^fail umt5_encoder .* 1 /);
    expect(lines[1]).toContain("first to diverge: padded.hidden_states.1");
    expect(lines.at(-1)).toBe("0 passed, 1 failed");
    expect(code).toBe(1);
  } finally {
    await Bun.$`rm -rf ${folder}`.quiet();
  }
});

test("a folder that is not there is the caller's mistake", async () => {
  expect((await parity("/nonexistent")).code).toBe(2);
});
