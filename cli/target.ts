/** Which daemon is meant, and how answers are wanted: read before anything is parsed, since the commands themselves depend on it. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import type { ClientOptions } from "../daemon/client.ts";

export interface Target {
  readonly url: string | null;
  readonly token: string | null;
  readonly home: string | null;
}

type Env = Readonly<Record<string, string | undefined>>;

/** `--url`, `--token`, `--home` win over WAVER_URL, WAVER_TOKEN, WAVER_HOME. */
export function targetOf(argv: readonly string[], env: Env = process.env): Target {
  const url = flagIn(argv, "url") ?? (env["WAVER_URL"] || null);
  const token = flagIn(argv, "token") ?? (env["WAVER_TOKEN"] || null);
  const home = flagIn(argv, "home");
  return { url, token, home: home === null ? null : resolve(home) };
}

export const wantsJson = (argv: readonly string[]): boolean => beforeDashes(argv).includes("--json");

/** The home folder as far as it is known without reading configuration files: good enough for what can be made again. */
export function likelyHome({ home }: Target, env: Env = process.env): string {
  return home ?? (env["WAVER_HOME"] || join(env["XDG_DATA_HOME"] || join(homedir(), ".local", "share"), "waver"));
}

export function clientOptions({ url, token, home }: Target): ClientOptions {
  return { ...(url === null ? {} : { url }), ...(token === null ? {} : { token }), ...(home === null ? {} : { home }) };
}

/** Whether the daemon sees this machine's files. */
export function isHere({ url }: Target): boolean {
  if (url === null) return true;
  try {
    return ["localhost", "127.0.0.1", "[::1]"].includes(new URL(url).hostname);
  } catch {
    return false; // the request itself will say what is wrong with the address
  }
}

const beforeDashes = (argv: readonly string[]): readonly string[] =>
  argv.includes("--") ? argv.slice(0, argv.indexOf("--")) : argv;

function flagIn(argv: readonly string[], name: string): string | null {
  const words = beforeDashes(argv);
  for (const [i, word] of words.entries()) {
    if (word === `--${name}`) return words[i + 1] ?? null;
    if (word.startsWith(`--${name}=`)) return word.slice(name.length + 3);
  }
  return null;
}
