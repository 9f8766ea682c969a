// Real processes: the program, a daemon that it starts, and a plugin whose jobs tick (test/fixtures/plugin-jobs).
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JobView, Status } from "../daemon/wire.ts";
import { makeClip } from "../test/support/clips.ts";

const root = join(import.meta.dir, "..");
const scratch = mkdtempSync(join(tmpdir(), "waver-cli-"));
const cwd = join(scratch, "cwd");
const env = {
  PATH: process.env["PATH"],
  HOME: scratch,
  WAVER_HOME: join(scratch, "home"),
  WAVER_CACHE: process.env["WAVER_CACHE"],
  LANG: "C.UTF-8",
  NO_COLOR: "1",
};

beforeAll(() => {
  mkdirSync(cwd);
  writeFileSync(
    join(cwd, "waver.config.json"),
    JSON.stringify({ workers: 2, plugins: { list: [join(root, "test/fixtures/plugin-jobs")] } }),
  );
});
afterAll(async () => {
  await waver("stop");
  rmSync(scratch, { recursive: true, force: true });
}, 60_000);

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

const start = (args: readonly string[], more: Record<string, string> = {}, input: "ignore" | Uint8Array = "ignore") =>
  Bun.spawn([process.execPath, join(root, "cli/index.ts"), ...args], {
    cwd,
    env: { ...env, ...more },
    stdin: input,
    stdout: "pipe",
    stderr: "pipe",
  });

async function ended(child: ReturnType<typeof start>): Promise<Ran> {
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}
const waver = (...args: string[]): Promise<Ran> => ended(start(args));
const jsonLines = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
const jobIn = (text: string): string => /job_[0-9a-z]{16}/.exec(text)?.[0] ?? "none";

describe("without a daemon", () => {
  test("help lists the operations, at once the second time", async () => {
    const first = await waver();
    expect(first).toMatchObject({ code: 0, err: "" });
    expect(first.out).toMatch(/The daemon[\s\S]*doctor/);
    expect(first.out).toMatch(/ tick +counts, slowly/);
    const began = performance.now();
    expect((await waver("--help")).out).toBe(first.out);
    console.log(`waver --help: ${(performance.now() - began).toFixed(0)} ms (must: 300, goal: 150)`);
  });

  test("a command's help shows its flags; help X is X --help", async () => {
    const { out, code } = await waver("tick", "--help");
    expect(code).toBe(0);
    for (const part of [
      "waver tick [PROMPT]",
      "--num-steps=<n>",
      "--[no-]loud",
      "--nested.deep=",
      "--detach",
      "Ctrl-C",
    ])
      expect(out).toContain(part);
    expect((await waver("help", "tick")).out).toBe(out);
    expect((await waver("--version")).out).toMatch(/^waver \d/);
  });

  test("mistakes end with 2, one sentence and a code, and start nothing", async () => {
    const cases: [string[], string, string][] = [
      [["tick", "x", "--num-step", "3"], "unknown_option: tick has no option --num-step", "did you mean --num-steps?"],
      [["tikc", "x"], "unknown_operation: there is no command tikc", "did you mean waver tick?"],
      [["jobs", "lst"], "unknown_operation: there is no command jobs lst", "did you mean waver jobs list?"],
      [["tick"], "invalid_input: tick needs prompt: what to count for", "waver tick PROMPT"],
      [["tick", "x", "--num-steps", "1.5"], 'invalid_input: --num-steps is a whole number, not "1.5"', ""],
      [["tick", "x", "y"], "invalid_input: tick does not take y here", "words with spaces need quotes"],
      [["tick", "x", "--input", "none.json"], "not_found: --input: none.json does not exist", ""],
      [["jobs", "show"], "invalid_input: id is missing", "waver jobs show ID"],
    ];
    for (const [args, message, hint] of cases) {
      const { code, out, err } = await waver(...args);
      expect({ args, code, out }).toEqual({ args, code: 2, out: "" });
      expect(err).toStartWith(`error ${message}\n`);
      expect(err).toContain(hint);
      expect(err.trim().split("\n").length).toBeLessThanOrEqual(2);
    }
    const asJson = await waver("tick", "x", "--nope", "--json");
    expect(jsonLines(asJson.out)).toMatchObject([{ type: "error", error: { code: "unknown_option" } }]);
    expect(await waver("status")).toMatchObject({
      code: 1,
      out: "no daemon runs; any command that needs it starts it\n",
    });
    expect(await waver("stop")).toMatchObject({ code: 0, out: "no daemon runs\n" });
  }, 30_000);

  test("doctor looks by itself, and names what is missing", async () => {
    const { out } = await waver("doctor");
    for (const part of ["bun", "libtorch", "ffmpeg", "home", "no daemon runs"]) expect(out).toContain(part);
    const broken = await ended(start(["doctor", "--json"], { WAVER_FFMPEG: join(scratch, "no-such-program") }));
    expect(broken.code).toBe(1);
    const [{ output }] = jsonLines(broken.out) as [
      { output: { ok: boolean; checks: { name: string; state: string; cure?: string }[] } },
    ];
    const check = output.checks.find(({ name }) => name === "ffmpeg");
    expect(output.ok).toBe(false);
    expect(check?.state).toBe("missing");
    expect(check?.cure).toBeString();
  }, 30_000);

  test("doctor names a plugin that keeps every daemon from starting", async () => {
    const folder = join(scratch, "broken");
    mkdirSync(folder);
    const config = join(folder, "waver.config.json");
    writeFileSync(config, JSON.stringify({ plugins: { list: [join(folder, "no-plugin")] } }));
    const broken = await ended(
      Bun.spawn([process.execPath, join(root, "cli/index.ts"), "doctor", "--json"], {
        ...{ cwd: folder, env: { ...env, WAVER_HOME: join(folder, "home") } },
        ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe" },
      }),
    );
    expect(broken.code).toBe(1);
    const [{ output }] = jsonLines(broken.out) as [
      { output: { checks: { name: string; state: string; found: string }[] } },
    ];
    const check = output.checks.find(({ name }) => name === "plugins");
    expect(check?.state).toBe("missing");
    expect(check?.found).toContain("no-plugin");
    const { out } = await waver("doctor");
    expect(out).toMatch(/plugins +\d+ can be loaded/);
  }, 30_000);

  test("a daemon that is not there is said to be unreachable", async () => {
    const { code, err } = await waver("jobs", "list", "--url", "http://127.0.0.1:9");
    expect(code).toBe(1);
    expect(err).toStartWith("error daemon_unreachable: ");
  });
});

test("whoever watches is told when the daemon is killed and nobody starts another", async () => {
  const home = join(scratch, "killed");
  const child = start(["tick", "x", "--stages", "s:100000", "--home", home]);
  const text = child.stdout.getReader();
  for (let seen = ""; !seen.includes("s "); ) seen += new TextDecoder().decode((await text.read()).value);
  const status = await waver("status", "--json", "--home", home);
  const { pid } = (jsonLines(status.out)[0] as { output: Status }).output;
  process.kill(pid, "SIGKILL");
  const began = performance.now();
  const [err, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  console.log(`told after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  expect(code).toBe(1);
  expect(err).toStartWith("error daemon_unreachable: the daemon ended while tick was under way");
  expect(err).toMatch(/waver jobs watch job_\w+ starts one/);
}, 60_000);

describe("with a daemon", () => {
  test("two commands at once start one, and both are answered", async () => {
    const both = await Promise.all([waver("tick", "a", "--stages", "s:3"), waver("tick", "b", "--stages", "s:3")]);
    expect(both.map(({ code, err }) => ({ code, err }))).toEqual([
      { code: 0, err: "" },
      { code: 0, err: "" },
    ]);
    const { out } = await waver("status", "--json");
    const status = (jsonLines(out)[0] as { output: Status & { running: boolean } }).output;
    expect(status.running).toBe(true);
    expect(status.jobs).toMatchObject({ done: 2 });
    expect((await waver("jobs", "list")).out.trim().split("\n")).toHaveLength(2);
  }, 60_000);

  test("a pipe gets plain lines and a summary", async () => {
    const { out, err, code } = await waver(
      "tick",
      "a red ball",
      "--stages",
      "warm:2",
      "--stages",
      "steps:10",
      "--milliseconds",
      "5",
    );
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out).not.toContain("\u001b");
    expect(out).not.toContain("\r");
    for (const part of [
      /^✓ tick warm +2\/2/m,
      /^✓ tick steps +10\/10/m,
      /^✓ tick {2}done in/m,
      /psnr +31.42/,
      /said +a red ball/,
      /path +\S+out\.mp4/,
    ])
      expect(out).toMatch(part);
  });

  test("--json gives events and a result, a query its answer", async () => {
    const lines = jsonLines((await waver("tick", "x", "--stages", "s:2", "--json")).out);
    expect(lines.map(({ type }) => type)).toEqual(expect.arrayContaining(["state", "progress", "log", "result"]));
    expect(lines.at(-1)).toMatchObject({
      type: "result",
      operation: "tick",
      state: "done",
      reused: false,
      output: { said: "x" },
    });
    expect(jsonLines((await waver("say", "hello", "--times", "2", "--json")).out)).toEqual([
      { type: "result", output: { said: ["hello", "hello"] } },
    ]);
  });

  test("children are shown beside their parent", async () => {
    const { out } = await waver("ticks", "--names", "one", "--names", "two", "--milliseconds", "5");
    expect(out.match(/^✓ tick steps +40\/40/gm)).toHaveLength(2);
    expect(out.match(/^✓ tick +in all/gm)).toHaveLength(2);
    expect(out).toMatch(/^✓ ticks parts +2\/2/m);
  });

  test("a body comes from standard input, flags win over it", async () => {
    const body = new TextEncoder().encode('{"prompt":"filed","stages":["s:1"],"numSteps":7}');
    const { out } = await ended(start(["tick", "--input", "-", "--num-steps", "8", "--json"], {}, body));
    expect(jsonLines(out).at(-1)).toMatchObject({ output: { said: "filed", numSteps: 8 } });
  });

  test("a recipe is data in a file, one of several by name", async () => {
    writeFileSync(join(cwd, "one.yaml"), "prompt: from yaml\nstages: ['s:1']\n");
    writeFileSync(
      join(cwd, "many.ts"),
      'export default ["a", "b"].map((name) => ({ name, tick: { prompt: "recipe " + name, stages: ["s:1"] } }));',
    );
    const said = async (...args: string[]): Promise<unknown> =>
      jsonLines((await waver("tick", ...args, "--json")).out).at(-1);
    expect(await said("--input", "one.yaml")).toMatchObject({ output: { said: "from yaml" } });
    expect(await said("--recipe", "many.ts#b")).toMatchObject({ output: { said: "recipe b" } });
    expect(await said("--recipe", "many.ts")).toMatchObject({
      error: { code: "invalid_input", message: "many.ts holds several recipes" },
    });
    expect(await said("--recipe", "many.ts#c")).toMatchObject({
      error: { code: "not_found", message: "many.ts has no recipe c" },
    });
  });

  test("failures have the job's code and exit code", async () => {
    const empty = await waver("tick", "x", "--fail", "empty");
    expect(empty).toMatchObject({ code: 2, err: "error media_empty: clip.mp4 is empty\n  hint: leave it out\n" });
    const thrown = await waver("tick", "x", "--fail", "thrown");
    expect(thrown.code).toBe(1);
    expect(thrown.err).toMatch(/^error \w+: [^\n]*something broke\n {2}hint: what it said: waver jobs logs job_/);
  });

  test("--detach returns the id; show, watch, logs and cancel find the job", async () => {
    const { out } = await waver("tick", "x", "--stages", "s:500", "--detach");
    const id = jobIn(out);
    expect(out).toContain(`waver jobs watch ${id}`);
    expect((await waver("jobs", "show", id)).out).toContain("tick");
    expect((await waver("jobs", "cancel", id)).code).toBe(0);
    const watched = await waver("jobs", "watch", id);
    expect(watched).toMatchObject({ code: 130, err: "error cancelled: the job was cancelled\n" });
    expect((await waver("jobs", "logs", id, "--json")).code).toBe(0);
    expect((await waver("jobs", "show", "job_0000000000000000")).code).toBe(2);
  });

  test("Ctrl-C leaves the job running, with --cancel-on-interrupt it ends it", async () => {
    const interrupted = async (...more: string[]): Promise<Ran> => {
      const child = start(["tick", "x", "--stages", "s:400", "--json", ...more]);
      let out = "";
      for await (const chunk of child.stdout) {
        const before = out.includes('"progress"');
        out += new TextDecoder().decode(chunk);
        if (!before && out.includes('"progress"')) child.kill("SIGINT");
      }
      return { out, err: await new Response(child.stderr).text(), code: await child.exited };
    };
    const left = await interrupted();
    expect(left.code).toBe(0);
    expect(jsonLines(left.out).at(-1)).toMatchObject({ type: "detached" });
    const [view] = jsonLines((await waver("jobs", "show", jobIn(left.out), "--json")).out) as unknown as [JobView];
    expect(view.state).toBe("running");
    await waver("jobs", "cancel", view.id);

    const ending = await interrupted("--cancel-on-interrupt");
    expect(ending.code).toBe(130);
    expect(jsonLines(ending.out).at(-1)).toMatchObject({ type: "error", error: { code: "cancelled" } });
  }, 30_000);

  test("bad files end in one sentence with a code", async () => {
    writeFileSync(join(cwd, "empty.mp4"), "");
    writeFileSync(join(cwd, "text.mp4"), "no video at all\n");
    mkdirSync(join(cwd, "cut"));
    writeFileSync(join(cwd, "cut", "config.json"), readFileSync(join(root, "configs/nano/vae.json")));
    const header = JSON.stringify({ weight: { dtype: "F32", shape: [64, 64], data_offsets: [0, 16384] } });
    const length = new Uint8Array(new BigUint64Array([BigInt(header.length)]).buffer);
    writeFileSync(
      join(cwd, "cut", "diffusion_pytorch_model.safetensors"),
      Buffer.concat([length, Buffer.from(header), Buffer.alloc(100)]),
    );
    await makeClip(join(cwd, "good.mp4"), [{ source: "testsrc2=s=160x90:r=25", seconds: 1.5 }]);
    const cases: [string[], string, RegExp][] = [
      [["curate", "empty.mp4", "--set.name", "a"], "media_empty", /empty\.mp4/],
      [["curate", "text.mp4", "--set.name", "a"], "media_unreadable", /text\.mp4/],
      [["curate", "missing", "--set.name", "a"], "media_missing", /missing/],
      [["generate", "a ball", "--model", "missing"], "checkpoint_missing", /missing/],
      [
        ["train-vae", "good.mp4", "--output", "out", "--steps", "1", "--codec", "wan-vae", "--codec.path", "cut"],
        "checkpoint_truncated",
        /16384 bytes .* 100 present/,
      ],
    ];
    for (const [args, code, words] of cases) {
      const ran = await waver(...args);
      expect({ args, exit: ran.code }).toEqual({ args, exit: 2 });
      expect(ran.err).toStartWith(`error ${code}: `);
      expect(ran.err).toMatch(words);
      expect(ran.err.trim().split("\n").length).toBeLessThanOrEqual(2);
    }
    expect(existsSync(join(cwd, "out"))).toBe(false);
    // All words count, and a file that cannot be used is a line of the result.
    const mixed = await waver("curate", "good.mp4", "text.mp4", "empty.mp4", "missing", "--set.name", "b", "--json");
    const { output } = jsonLines(mixed.out).at(-1) as { output: { sources: { error?: { code: string } }[] } };
    expect(output.sources.map(({ error }) => error?.code)).toEqual([
      undefined,
      "media_unreadable",
      "media_empty",
      "media_missing",
    ]);
    // A selector that takes no recipe is none the worse for being the only one.
    expect(
      await waver("curate", "good.mp4", "--set.name", "a", "--selectors", "dedup", "--min-seconds", "1"),
    ).toMatchObject({
      code: 0,
      err: "",
    });
  }, 120_000);

  test("plugins are listed, begun and checked", async () => {
    expect((await waver("plugins", "list")).out).toMatch(/waver-plugin-jobs .*waver tick/);
    expect(await waver("plugins", "new", "my-scorer")).toMatchObject({ code: 0 });
    expect((await waver("plugins", "check", "my-scorer")).code).toBe(0);
  }, 60_000);

  test("stop ends it, whatever runs; the next command takes its jobs up again", async () => {
    const id = jobIn((await waver("tick", "x", "--stages", "s:30", "--detach")).out);
    expect(await waver("stop")).toMatchObject({ code: 0, out: "the daemon has stopped\n" });
    expect((await waver("jobs", "watch", id)).out).toMatch(/^✓ tick {2}done in/m);
  }, 60_000);
});

test("serve runs in the foreground and answers over TCP with a token", async () => {
  const home = join(scratch, "served");
  const token = "0123456789abcdef0123456789abcdef";
  const child = start(["serve", "--json", "--home", home], { WAVER_TCP_PORT: "0", WAVER_TCP_TOKEN: token });
  const reader = child.stdout.getReader();
  const first = JSON.parse(new TextDecoder().decode((await reader.read()).value)) as { addresses: string[] };
  const url = first.addresses.find((each) => each.startsWith("http")) ?? "none";
  const remote = { WAVER_URL: url, WAVER_TOKEN: token };
  expect((await ended(start(["tick", "far", "--stages", "s:1"], remote))).out).toMatch(/said +far/);
  expect((await ended(start(["tick", "far"], { WAVER_URL: url, WAVER_TOKEN: "wrong" }))).err).toStartWith(
    "error unauthorized: ",
  );
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}, 60_000);
