/** `waver doctor`: what is there, what is missing and what to do about it. Works when nothing else does. */
import { accessSync, constants, mkdirSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, toWaverError, WaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";
import { bytes, padEnd, plain, type Style, styleOf } from "../style.ts";
import { likelyHome } from "../target.ts";

interface Check {
  readonly name: string;
  readonly state: "ok" | "warn" | "missing";
  readonly found: string;
  readonly cure?: string;
}

/** What `cli/setup.mjs doctor-json` prints. */
interface Setup {
  readonly bun: Part | null;
  readonly packages: boolean;
  readonly tools: Readonly<Record<string, unknown>>;
  readonly libtorch: Part | null;
  readonly cuda: boolean;
  readonly addon: Readonly<Record<string, unknown>> | null;
  readonly ffmpeg: Part | null;
}
interface Part {
  readonly path?: string;
  readonly version?: string;
  readonly source?: string;
  readonly problem?: string;
}

const SETUP = "run `npm run setup` in the folder of waver";
const LOW_DISK = 5e9;

export class Doctor extends WaverCommand {
  static override readonly summary =
    "shows what was found on this machine and the cure for each lack; exit code 1 when something needed is missing";

  async run(): Promise<void> {
    const { flags } = await this.given();
    const { checks, from } = await this.#checks();
    const ok = checks.every(({ state }) => state !== "missing");
    if (flags["json"] === true)
      process.stdout.write(`${JSON.stringify({ type: "result", output: { ok, from, checks } })}\n`);
    else process.stdout.write(described(checks, from, styleOf(process.stdout)));
    if (!ok) process.exitCode = 1;
  }

  /** The daemon knows more: it has its configuration. Without one, set-up's own eyes. */
  async #checks(): Promise<{ checks: readonly Check[]; from: "daemon" | "here" }> {
    const absent: readonly ErrorCode[] = ["daemon_unreachable", "invalid_input"];
    try {
      return { checks: (await this.client().doctor()).checks, from: "daemon" };
    } catch (error) {
      const known = toWaverError(error);
      if (this.target.url !== null || (!absent.includes(known.code) && known.code !== "internal")) throw error;
      // A configuration that cannot be read keeps every daemon from starting: it is one of the findings.
      const wrong: Check[] =
        known.code === "daemon_unreachable"
          ? []
          : [
              {
                name: "configuration",
                state: "missing",
                found: known.message,
                ...(known.hint === undefined ? {} : { cure: known.hint }),
              },
            ];
      const home = likelyHome(this.target);
      // Without a configuration that can be read nobody knows which plugins are meant.
      const plugins = wrong.length === 0 ? [await pluginCheck(home)] : [];
      return { checks: [...wrong, ...(await setupChecks()), ...plugins, homeCheck(home)], from: "here" };
    }
  }
}

async function setupChecks(): Promise<Check[]> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "..", "setup.mjs"), "doctor-json"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0)
    throw new WaverError("internal", `set-up cannot look at this machine: ${problem.trim().split("\n").at(-1) ?? ""}`);
  const found = JSON.parse(text) as Setup;
  const missingTools = Object.entries(found.tools)
    .filter(([, there]) => there === null || there === false)
    .map(([name]) => name);
  return [
    part("bun", found.bun),
    // Not missing: this program itself could not have started without them.
    {
      name: "packages",
      state: found.packages ? "ok" : "warn",
      found: found.packages ? "as bun.lock says" : "there, but set-up has not compared them with bun.lock",
      ...(found.packages ? {} : { cure: SETUP }),
    },
    part("libtorch", found.libtorch),
    found.addon === null
      ? { name: "engine", state: "missing", found: "the native addon is not built", cure: SETUP }
      : {
          name: "engine",
          state: "ok",
          found: `the native addon is built${typeof found.addon["torch"] === "string" ? ` against ${found.addon["torch"]}` : ""}`,
        },
    { name: "device", state: "ok", found: found.cuda ? "a CUDA device" : "no GPU seen: everything runs on the CPU" },
    part("ffmpeg", found.ffmpeg),
    {
      name: "build tools",
      state: missingTools.length === 0 ? "ok" : "warn",
      found: missingTools.length === 0 ? "compiler, cmake, ninja" : `without ${missingTools.join(", ")}`,
      ...(missingTools.length === 0 ? {} : { cure: `needed only to build the engine anew; ${SETUP}` }),
    },
  ];
}

/** What `daemon/plugins/probe.ts` prints. */
type Probed =
  | {
      readonly ok: true;
      readonly loaded: number;
      readonly failed: readonly { readonly name: string; readonly reason: string }[];
    }
  | { readonly ok: false; readonly message: string; readonly hint?: string };

/** A plugin that the configuration names and that cannot be loaded keeps every daemon from starting. */
async function pluginCheck(home: string): Promise<Check> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "..", "..", "daemon", "plugins", "probe.ts")], {
    env: { ...process.env, WAVER_HOME: home },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
  });
  const text = await new Response(child.stdout).text();
  const cure = "mend it, or take it off the list `plugins` of the configuration";
  if ((await child.exited) !== 0)
    return { name: "plugins", state: "missing", found: "the process that loads them ended without an answer", cure };
  const probed = JSON.parse(text) as Probed;
  if (!probed.ok) return { name: "plugins", state: "missing", found: probed.message, cure: probed.hint ?? cure };
  const { loaded, failed } = probed;
  return failed.length === 0
    ? { name: "plugins", state: "ok", found: `${loaded} can be loaded` }
    : {
        name: "plugins",
        state: "warn",
        found: `${loaded} can be loaded; ${failed.map(({ name, reason }) => `${name} cannot: ${reason}`).join("; ")}`,
        cure: "`waver plugins remove` takes one out",
      };
}

function part(name: string, found: Part | null): Check {
  if (found === null) return { name, state: "missing", found: "not found", cure: SETUP };
  if (found.problem !== undefined)
    return {
      name,
      state: "missing",
      found: found.problem,
      cure: "mend that setting, or unset it and run `npm run setup`",
    };
  return {
    name,
    state: "ok",
    found:
      [found.version, found.source === undefined ? undefined : `(${found.source})`].filter(Boolean).join(" ") ||
      (found.path ?? "found"),
  };
}

function homeCheck(home: string): Check {
  try {
    mkdirSync(home, { recursive: true, mode: 0o700 });
    accessSync(home, constants.R_OK | constants.W_OK);
    const { bavail, bsize } = statfsSync(home);
    const free = bavail * bsize;
    const low = free < LOW_DISK;
    return {
      name: "home",
      state: low ? "warn" : "ok",
      found: `writable, ${bytes(free)} free`,
      ...(low ? { cure: "free some space, or set WAVER_HOME to a larger disk" } : {}),
    };
  } catch (error) {
    return {
      name: "home",
      state: "missing",
      found: `${home} cannot be used (${(error as NodeJS.ErrnoException).code ?? "unknown"})`,
      cure: "set WAVER_HOME to a folder of your own",
    };
  }
}

function described(
  checks: readonly Check[],
  from: "daemon" | "here",
  { green, yellow, red, dim, signs }: Style,
): string {
  const rows = checks.map(({ name, state, found, cure }) => {
    const sign = state === "ok" ? green(signs.done) : state === "warn" ? yellow(signs.warn) : red(signs.failed);
    return `${sign} ${padEnd(name, 14)}  ${plain(found)}\n${cure === undefined ? "" : `${" ".repeat(18)}${dim("cure:")} ${plain(cure)}\n`}`;
  });
  const bad = checks.filter(({ state }) => state === "missing").length;
  const last = bad === 0 ? "everything needed is there" : `${bad} ${bad === 1 ? "thing is" : "things are"} missing`;
  return `${rows.join("")}\n${last}${from === "here" ? dim("  (no daemon runs: looked at without it)") : ""}\n`;
}
