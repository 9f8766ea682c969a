/** What was found on this machine, and the cure for each lack. Engine and ffmpeg are asked in children of their own. */
import { accessSync, constants, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { toWaverError } from "../../plugins/errors.ts";
import type { Config } from "../config.ts";
import { findFfmpeg } from "../media/ffmpeg.ts";
import { sandbox } from "../media/sandbox.ts";

const Check = z.object({
  name: z.string(),
  state: z.enum(["ok", "warn", "missing"]),
  found: z.string(),
  /** What to do; absent when nothing has to be done. */
  cure: z.string().optional(),
});
type Check = z.output<typeof Check>;
export const Doctor = z.object({ ok: z.boolean(), checks: z.array(Check) });
export type Doctor = z.output<typeof Doctor>;

const Engine = z.union([
  z.object({ ok: z.literal(true), cpu: z.string(), devices: z.number(), threads: z.number() }),
  z.object({ ok: z.literal(false), message: z.string(), hint: z.string().optional() }),
]);

/** Below this a training run or a curated set may not fit. */
const LOW_DISK_BYTES = 5 * 2 ** 30;
const CHILD_MS = 60_000;

export async function examine(config: Config, version: string, signal: AbortSignal): Promise<Doctor> {
  const checks = await Promise.all([
    {
      name: "waver",
      state: "ok",
      found: `${version}, Bun ${Bun.version}, ${process.platform} ${process.arch}`,
    } satisfies Check,
    ...(await engine(config, signal)),
    ffmpeg(config, signal),
    decoders(),
    permissions(config),
    disk(config),
    {
      name: "workers",
      state: "ok",
      found: `${config.workers} processes, ${config.threads} threads in a runner`,
    } satisfies Check,
  ]);
  return { ok: checks.every((check) => check.state !== "missing"), checks };
}

async function engine(config: Config, signal: AbortSignal): Promise<Check[]> {
  const cure = "run `npm run setup`: it builds the engine against libtorch and says what it lacks";
  const output = await ask([process.execPath, join(import.meta.dir, "..", "runner", "probe.ts")], signal);
  const parsed = Engine.safeParse(output === null ? null : jsonOf(output));
  if (!parsed.success)
    return [{ name: "engine", state: "missing", found: "its process ended without an answer", cure }];
  const facts = parsed.data;
  if (!facts.ok)
    return [
      {
        name: "engine",
        state: "missing",
        found: safe(facts.message, config),
        cure: facts.hint === undefined ? cure : safe(facts.hint, config),
      },
    ];
  const wantsGpu = config.device.startsWith("cuda");
  return [
    { name: "engine", state: "ok", found: `libtorch, CPU ${facts.cpu}, ${facts.threads} threads` },
    wantsGpu && facts.devices === 0
      ? {
          name: "device",
          state: "missing",
          found: `${config.device} is configured, no CUDA device is seen`,
          cure: 'set `device: "cpu"`, or install a CUDA build of libtorch and the driver',
        }
      : { name: "device", state: "ok", found: `${config.device} (${facts.devices} CUDA devices)` },
  ];
}

async function ffmpeg(config: Config, signal: AbortSignal): Promise<Check> {
  try {
    const program = findFfmpeg({ ...config.media, cache: config.cache });
    const output = await ask([program, "-version"], signal);
    const version = /^ffmpeg version (\S+)/.exec(output ?? "")?.[1];
    if (version !== undefined) return { name: "ffmpeg", state: "ok", found: version };
    return {
      name: "ffmpeg",
      state: "missing",
      found: "a program of that name that does not answer",
      cure: "run `npm run setup`, or set WAVER_FFMPEG to a working ffmpeg",
    };
  } catch (error) {
    const { message, hint } = toWaverError(error);
    return { name: "ffmpeg", state: "missing", found: message, ...(hint === undefined ? {} : { cure: hint }) };
  }
}

function decoders(): Check {
  const { network, rights } = sandbox();
  if (network && rights)
    return { name: "sandbox", state: "ok", found: "decoders run without a network and cannot gain rights" };
  const lacks = [...(network ? [] : ["without a network of their own"]), ...(rights ? [] : ["with no new rights"])];
  return {
    name: "sandbox",
    state: "warn",
    found: `decoders cannot be run ${lacks.join(", nor ")}; their limits and lists of formats hold all the same`,
    cure: "install util-linux (unshare, setpriv) and allow user namespaces, or open only videos that you trust",
  };
}

function permissions({ home }: Config): Check {
  try {
    accessSync(home, constants.R_OK | constants.W_OK);
    const open = statSync(home).mode & 0o077;
    if ((statSync(join(home, "run")).mode & 0o077) === 0)
      return {
        name: "permissions",
        state: "ok",
        found:
          open === 0
            ? "the home folder is private and writable"
            : "the home folder is writable, its run folder private",
      };
    return {
      name: "permissions",
      state: "warn",
      found: "others can look into the run folder",
      cure: "chmod 700 the folder `run` of the home folder",
    };
  } catch (error) {
    return {
      name: "permissions",
      state: "missing",
      found: `the home folder cannot be used (${(error as NodeJS.ErrnoException).code ?? "unknown"})`,
      cure: "give this user the home folder, or set WAVER_HOME to one that it owns",
    };
  }
}

async function disk({ home }: Config): Promise<Check> {
  const { bavail, bsize } = await statfs(home);
  const free = bavail * bsize;
  const found = `${(free / 2 ** 30).toFixed(1)} GB free`;
  return free < LOW_DISK_BYTES
    ? { name: "disk", state: "warn", found, cure: "free some space, or set WAVER_HOME to a larger disk" }
    : { name: "disk", state: "ok", found };
}

/** Output of a short program; null when it failed. */
async function ask(cmd: readonly string[], signal: AbortSignal): Promise<string | null> {
  const child = Bun.spawn([...cmd], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    signal: AbortSignal.any([signal, AbortSignal.timeout(CHILD_MS)]),
  });
  const output = await new Response(child.stdout).text();
  return (await child.exited) === 0 ? output : null;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    return { problem: (error as Error).name };
  }
}

/** Nothing that leaves the daemon names our folders. */
const safe = (text: string, { home }: Config): string =>
  text.replaceAll(home, "<home>").replaceAll(join(import.meta.dir, "..", ".."), "<waver>");
