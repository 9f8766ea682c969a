import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atLeast } from "./bun.mjs";
import { cudaRequirements } from "./libtorch.mjs";
import { lastError, megabytes } from "./process.mjs";

const cli = join(import.meta.dir, "..");
const scratch = mkdtempSync(join(tmpdir(), "waver-setup-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Set-up runs on Node before Bun is there; where Node is absent Bun takes its place, as `bun run` does. */
const node = Bun.which("node") ?? process.execPath;

function start(command: string[], cache: string): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  return Bun.spawn(command, {
    env: { ...process.env, WAVER_CACHE: cache },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function finish(command: string[], cache: string): Promise<{ code: number; out: string; err: string }> {
  const child = start(command, cache);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

describe("facts", () => {
  test("versions compare by number", () => {
    expect(["1.4.0", "1.10.0", "2.0.0", "1.4.5-canary.1"].every((v) => atLeast(v, "1.4.0"))).toBe(true);
    expect(["1.3.99", "0.9.0", "1.4", ""].map((v) => atLeast(v, "1.4.1"))).toEqual([false, false, false, false]);
    expect(atLeast("2.15.0+cu132", "2.11.0")).toBe(true);
    expect(atLeast("2.36", "2.28.0")).toBe(true);
  });

  test("a wheel's own requirements choose the CUDA libraries", () => {
    const requires = [
      "sympy>=1.13.3",
      'cuda-toolkit[cublas,cudart,cufft]==13.2.2; platform_system == "Linux"',
      'cuda-bindings<14,>=13.0.3; platform_system == "Linux"',
      'nvidia-cudnn-cu13==9.26.0.51; platform_system == "Linux"',
    ];
    expect(cudaRequirements(requires, false)).toEqual(["cuda-toolkit[cudart,cupti]==13.2.2"]);
    expect(cudaRequirements(requires, true)).toEqual([
      "cuda-toolkit[crt,cublas,cudart,cufft]==13.2.2",
      "nvidia-cudnn-cu13==9.26.0.51",
    ]);
    // before the meta package there was one requirement for each library; a CPU wheel has none
    expect(cudaRequirements(["nvidia-cuda-runtime==13.0.96; x", "nvidia-cuda-cupti==13.0.85; x"], false)).toHaveLength(
      2,
    );
    expect(cudaRequirements(["sympy"], true)).toEqual([]);
  });

  test("the telling line of a failed command is found", () => {
    expect(lastError("Collecting x\nERROR: No matching distribution\nhint: look\n")).toBe(
      "ERROR: No matching distribution",
    );
    expect(lastError("\n")).toBe("no output");
    expect([megabytes(539e6), megabytes(4.06e9)]).toEqual(["539 MB", "4.1 GB"]);
  });
});

describe("the command", () => {
  test("doctor-json tells and changes nothing", async () => {
    const cache = join(scratch, "doctor");
    const { code, out } = await finish([node, join(cli, "setup.mjs"), "doctor-json"], cache);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ cache, tools: {}, packages: expect.any(Boolean) });
    expect(existsSync(cache)).toBe(false);
  });

  test("mistakes are one sentence and exit 1", async () => {
    const unknown = await finish([node, join(cli, "setup.mjs"), "quickstrat"], join(scratch, "unknown"));
    expect(unknown).toMatchObject({ code: 1, out: "" });
    expect(unknown.err.trim().split("\n")).toHaveLength(1);
    const file = join(scratch, "a-file");
    writeFileSync(file, "");
    const blocked = await finish([node, join(cli, "setup.mjs")], file);
    expect(blocked.code).toBe(1);
    expect(blocked.err.trim().split("\n")).toHaveLength(1);
    expect(blocked.err).toContain("WAVER_CACHE");
  });
});

describe("the lock", () => {
  const holder = join(scratch, "holder.mjs");
  writeFileSync(
    holder,
    `import { appendFileSync } from "node:fs";
     import { locked } from ${JSON.stringify(join(cli, "setup", "cache.mjs"))};
     await locked(async () => {
       appendFileSync(process.argv[2], "in ");
       await new Promise((resolve) => setTimeout(resolve, Number(process.argv[3])));
       appendFileSync(process.argv[2], "out ");
     });`,
  );

  test("lets one in at a time", async () => {
    const cache = join(scratch, "lock");
    const log = join(scratch, "lock.log");
    await Promise.all(Array.from({ length: 4 }, () => finish([node, holder, log, "100"], cache)));
    expect(readFileSync(log, "utf8")).toBe("in out ".repeat(4));
    expect(readdirSync(cache)).toEqual([]);
  });

  test("outlives its holder only until the next one looks", async () => {
    const cache = join(scratch, "killed");
    const log = join(scratch, "killed.log");
    const first = start([node, holder, log, "60000"], cache);
    while (!existsSync(log)) await Bun.sleep(10);
    first.kill("SIGKILL");
    await first.exited;
    const began = performance.now();
    expect((await finish([node, holder, log, "0"], cache)).code).toBe(0);
    expect(performance.now() - began).toBeLessThan(5000);
    expect(readFileSync(log, "utf8")).toBe("in in out ");
  });

  test("is given back on SIGTERM", async () => {
    const cache = join(scratch, "ended");
    const log = join(scratch, "ended.log");
    const child = start([node, holder, log, "60000"], cache);
    while (!existsSync(log)) await Bun.sleep(10);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(143);
    expect(readdirSync(cache)).toEqual([]);
  });
});

describe("the launcher", () => {
  const launcher = join(cli, "waver.mjs");

  test("without set-up says so in one sentence, by shell, Node and Bun", async () => {
    for (const command of [[launcher], [node, launcher], [process.execPath, launcher]]) {
      const { code, out, err } = await finish([...command, "jobs"], join(scratch, "none"));
      expect({ code, out, lines: err.trim().split("\n").length }).toEqual({ code: 1, out: "", lines: 1 });
      expect(err).toContain("npm run setup");
    }
  });

  test("passes arguments, signals and the exit code", async () => {
    const cache = join(scratch, "cache with space");
    mkdirSync(join(cache, "bin"), { recursive: true });
    const bun = join(cache, "bin", "bun");
    writeFileSync(bun, '#!/bin/sh\nfor a in "$@"; do echo "[$a]"; done\n[ "$2" = wait ] && exec sleep 60\nexit 7\n');
    chmodSync(bun, 0o755);
    for (const command of [[launcher], [node, launcher]]) {
      const { code, out } = await finish([...command, "a b", "--c=*"], cache);
      expect({ code, out }).toEqual({ code: 7, out: `[${join(cli, "index.ts")}]\n[a b]\n[--c=*]\n` });
      const child = start([...command, "wait"], cache);
      const reader = child.stdout.getReader();
      await reader.read(); // it has started
      child.kill("SIGTERM");
      await child.exited;
      expect(child.signalCode).toBe("SIGTERM");
    }
  });
});
