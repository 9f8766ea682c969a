/** Models from a hub: real HTTP on loopback, real processes, killed in the middle and gone on with; then used by name. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { recipes } from "../../daemon/models/recipe.ts";
import { eventually } from "../support/daemon.ts";
import { type FakeHub, fakeHub } from "../support/fake-hub.ts";
import { RealDaemon } from "../support/real-daemon.ts";

const PIPELINE = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");
const CLI = join(import.meta.dir, "../../cli/index.ts");
const TOKEN = "hf_a-secret-of-the-user";
const BIG = "extra/weights.safetensors";

const files: Record<string, Uint8Array> = {};
for (const entry of readdirSync(PIPELINE, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const path = join(entry.parentPath, entry.name);
  files[relative(PIPELINE, path)] = new Uint8Array(readFileSync(path));
}
files[BIG] = randomBytes(6 << 20);
files["old/weights.pth"] = randomBytes(5000);
files[".gitattributes"] = Buffer.from("*.safetensors filter=lfs");

let hub: FakeHub;
let daemon: RealDaemon;
beforeAll(async () => {
  hub = fakeHub("org/Tiny-Model", files, { token: TOKEN });
  daemon = await RealDaemon.start({ HF_ENDPOINT: hub.url, HF_TOKEN: TOKEN });
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await hub[Symbol.asyncDispose]();
});

/** Beside this process, which is also the hub. */
async function waver(...argv: string[]): Promise<{ code: number; text: string }> {
  const child = Bun.spawn([process.execPath, CLI, ...argv, "--home", daemon.home], {
    env: { PATH: process.env["PATH"], HOME: daemon.home, XDG_CONFIG_HOME: daemon.home },
    cwd: daemon.home,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, text: out + problem };
}
const at = (...parts: string[]): string => join(daemon.home, "models", ...parts);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

test("a pull that is killed in the middle goes on where it stopped, in parts at once, and is checked", async () => {
  hub.delayMs = 15;
  const { id } = await daemon.client.submit("pull", { model: "hf:org/Tiny-Model@v1", name: "tiny" });
  await eventually(async () => (hub.sent.get(BIG) ?? 0) > 2 << 20, 30_000);
  // nothing is there before all of it is
  expect(existsSync(at("tiny"))).toBe(false);
  await daemon.kill();
  await Bun.sleep(200);
  await daemon.start();
  const job = await daemon.client.wait(id);
  hub.delayMs = 0;
  expect(job.attempt).toBe(2);
  expect(job.output).toMatchObject({ name: "tiny", source: "hf:org/Tiny-Model", revision: hub.sha, present: false });
  for (const [path, bytes] of Object.entries(files)) {
    // weights that run code when they are read are left out
    if (/pth$|^\.git/.test(path)) expect(existsSync(at("tiny", path))).toBe(false);
    else expect(sha256(readFileSync(at("tiny", path)))).toBe(sha256(bytes));
  }
  // what was here before the kill did not come again: half a second of saving apart, and what was under way
  expect(hub.sent.get(BIG)).toBeLessThan((6 << 20) + (3 << 20));
  const starts = new Set(
    hub.ranges.filter((each) => each.startsWith(BIG)).map((each) => each.split(" ")[1]?.split("-")[0]),
  );
  expect(starts.size).toBeGreaterThan(4);
  expect(hub.authorizations).toEqual([]);
  expect(readdirSync(at(".pulling")).filter((name) => name.startsWith("tiny@"))).toEqual([]);
}, 120_000);

test("what is here already is not fetched again", async () => {
  const before = [...hub.sent.values()].reduce((a, b) => a + b, 0);
  const { code, text } = await waver("pull", "hf:org/Tiny-Model", "--name", "tiny", "--json");
  expect(code).toBe(0);
  expect(JSON.parse(text.trim().split("\n").at(-1) as string)).toMatchObject({ output: { present: true } });
  expect([...hub.sent.values()].reduce((a, b) => a + b, 0)).toBe(before);
});

test("is listed, shown and used by its name", async () => {
  const listed = await waver("models", "list");
  expect(listed.text).toContain("tiny");
  // those that can be pulled stand beside those that are here
  for (const name of recipes().keys()) expect(listed.text).toContain(name.slice(0, 12));
  expect((await waver("models", "show", "tiny")).text).toContain("hf:org/Tiny-Model");
  const made = await waver(
    "generate",
    "--model",
    "tiny",
    "--prompt",
    "a cat",
    "--width",
    "16",
    "--height",
    "16",
    "--num-frames",
    "5",
    "--num-steps",
    "1",
    "--max-tokens",
    "8",
    "--output",
    "cat.mp4",
  );
  expect(made.code).toBe(0);
  expect(existsSync(join(daemon.home, "cat.mp4"))).toBe(true);
});

test("connections that break are taken up again; bytes that are wrong are not", async () => {
  hub.cuts = { after: 256 << 10, times: 4 };
  await daemon.client.wait((await daemon.client.submit("pull", { model: "hf:org/Tiny-Model", name: "cut" })).id);
  expect(sha256(readFileSync(at("cut", BIG)))).toBe(sha256(files[BIG] as Uint8Array));
  hub.corrupt = true;
  const pulled = async (name: string): Promise<unknown> =>
    daemon.client.wait((await daemon.client.submit("pull", { model: "hf:org/Tiny-Model", name })).id);
  await expect(pulled("wrong")).rejects.toMatchObject({
    code: "checkpoint_invalid",
    message: expect.stringContaining("another digest"),
  });
  expect(existsSync(at("wrong"))).toBe(false);
  hub.corrupt = false;
  await pulled("wrong");
  expect(sha256(readFileSync(at("wrong", BIG)))).toBe(sha256(files[BIG] as Uint8Array));
}, 120_000);

test("a server without ranges gives whole files, one at a time", async () => {
  hub.noRanges = true;
  const parts = await waver("pull", "hf:org/Tiny-Model", "--name", "whole");
  expect(parts.text).toMatch(/not given in parts[\s\S]*--parallel 1/);
  hub.cuts = { after: 1 << 20, times: 1 };
  const { code } = await waver("pull", "hf:org/Tiny-Model", "--name", "whole", "--parallel", "1");
  expect(code).toBe(0);
  expect(sha256(readFileSync(at("whole", BIG)))).toBe(sha256(files[BIG] as Uint8Array));
  hub.noRanges = false;
}, 120_000);

test("is removed", async () => {
  for (const name of ["cut", "wrong", "whole"]) expect((await waver("models", "rm", name)).code).toBe(0);
  expect(existsSync(at("cut"))).toBe(false);
  const again = await waver("models", "rm", "cut");
  expect([again.code, again.text]).toEqual([2, expect.stringContaining("there is no model cut here")]);
  expect((await waver("models", "rm", "../journal")).code).toBe(2);
});

test("mistakes end in one sentence", async () => {
  const cases: [string[], RegExp, number][] = [
    [["hf:org/Nothing"], /hub has no org\/Nothing@main/, 2],
    [["hf:org/Tiny-Model@v9"], /hub has no org\/Tiny-Model@v9/, 2],
    [["hf:org"], /not written as hf:org\/name/, 2],
    [["hf:org/../../x"], /not written as hf:org\/name/, 2],
    [["wan2.1-1.3"], /no recipe.*wan2\.1-1\.3[\s\S]*did you mean wan2\.1-1\.3b/, 2],
    [["hf:org/Tiny-Model", "--include", "*.gguf", "--name", "none"], /no file that this would fetch/, 2],
    [["hf:org/Tiny-Model", "--name", "../x"], /a model's name/, 2],
  ];
  for (const [argv, sentence, code] of cases) {
    const said = await waver("pull", ...argv);
    expect(said.text).toMatch(sentence);
    expect(said.code).toBe(code);
  }
  // a token is for the hub that it was made for
  await using other = fakeHub("org/Tiny-Model", files, { token: TOKEN });
  const elsewhere = await waver("pull", "hf:org/Tiny-Model", "--name", "else", "--endpoint", other.url);
  expect(elsewhere.text).toMatch(/needs a token[\s\S]*HF_TOKEN/);
});

test("offline is said in one sentence", async () => {
  const offline = fakeHub("org/Tiny-Model", {});
  await offline[Symbol.asyncDispose]();
  const said = await waver("pull", "hf:org/Tiny-Model", "--name", "away", "--endpoint", offline.url);
  expect(said.text).toMatch(/127\.0\.0\.1:\d+ cannot be reached: this machine is offline, or the host is down/);
  expect(said.text).toContain("goes on where it stopped");
  expect(said.code).toBe(1);
});

test("no secret is in the journal, in the log or in what others see", async () => {
  for (const name of ["journal.sqlite", "journal.sqlite-wal", "log/daemon.log"]) {
    const path = join(daemon.home, name);
    if (existsSync(path)) expect(readFileSync(path).includes(TOKEN)).toBe(false);
  }
});

test("every recipe names a repository and what it costs", () => {
  expect(recipes().size).toBeGreaterThan(4);
  for (const { repository, bytes, licence } of recipes().values()) {
    expect(repository).toMatch(/^[\w.-]+\/[\w.-]+$/);
    expect(bytes).toBeGreaterThan(1e9);
    expect(licence).not.toBe("");
  }
});
