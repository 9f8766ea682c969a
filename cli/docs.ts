/**
 * What the daemon can do, kept on disk by plugin set, so that help needs no daemon. A running daemon is asked whether
 * the kept one still holds (304); without one it is made anew in a child when the files it came from have changed.
 */

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Client } from "../daemon/client.ts";
import type { OperationsDoc } from "../daemon/wire.ts";
import { type ErrorBody, WaverError } from "../plugins/errors.ts";
import { clientOptions, likelyHome, type Target } from "./target.ts";

/** As WIRE_VERSION of daemon/wire.ts, which would load zod. A test holds them equal. */
export const WIRE = 1;
const root = dirname(import.meta.dir);

interface Kept {
  /** Of the files that the operations came from; of a daemon elsewhere, its address. */
  readonly stamp: string;
  readonly docs: OperationsDoc;
}

/** Made or asked for again, whatever is kept. */
export async function renewedDocs(target: Target): Promise<OperationsDoc> {
  if (target.url !== null) return freshDocs(target, await clientOf(target));
  const docs = await made(target);
  keep(target, { stamp: stampOf(target), docs });
  return docs;
}

async function clientOf(target: Target): Promise<Client> {
  const { createClient } = await import("../daemon/client.ts");
  return createClient(clientOptions(target));
}

/** For help and for the table of commands: right as of the files of this tree, or as of the last talk with a daemon elsewhere. */
export async function keptDocs(target: Target): Promise<OperationsDoc> {
  const kept = read(target);
  if (target.url !== null) {
    if (kept !== null) return kept.docs;
    return freshDocs(target, await clientOf(target));
  }
  const stamp = stampOf(target);
  if (kept !== null && kept.stamp === stamp) return kept.docs;
  return renewedDocs(target);
}

/** The operations of the daemon that answers. */
export async function freshDocs(target: Target, client: Client): Promise<OperationsDoc> {
  const kept = read(target);
  const docs = await client.docs(kept?.docs.pluginSet);
  if (docs === null && kept !== null) return kept.docs;
  const found = docs ?? (await client.docs());
  if (found === null) throw new WaverError("daemon_unreachable", "the daemon did not say what it can do");
  if (found.wire !== WIRE)
    throw new WaverError(
      "version_mismatch",
      `the daemon is of another version (${found.version}, wire ${found.wire}; this program speaks ${WIRE})`,
      {
        hint: "stop it with the program that started it, then run this again",
      },
    );
  if (target.url !== null) keep(target, { stamp: target.url, docs: found });
  return found;
}

async function made(target: Target): Promise<OperationsDoc> {
  const child = Bun.spawn(
    [
      process.execPath,
      "--no-install",
      join(root, "daemon", "plugins", "docs.ts"),
      ...(target.home === null ? [] : [target.home]),
    ],
    { stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  const [text, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  let answer: OperationsDoc | { error: ErrorBody };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch (error) {
    throw new WaverError(
      "internal",
      `the operations cannot be read: ${problem.trim().split("\n").at(-1) ?? "no answer"}`,
      { hint: "run `waver doctor`", cause: error },
    );
  }
  if ("error" in answer) throw WaverError.fromBody(answer.error);
  return answer;
}

function fileOf(target: Target): string {
  const whose = target.url === null ? `here ${target.home ?? ""}` : target.url;
  return join(
    likelyHome(target),
    "cli",
    `operations-${createHash("sha256").update(`${whose} ${root}`).digest("hex").slice(0, 16)}.json`,
  );
}

function read(target: Target): Kept | null {
  try {
    const kept = JSON.parse(readFileSync(fileOf(target), "utf8")) as Kept;
    return kept.docs.wire === WIRE ? kept : null;
  } catch {
    return null; // absent, torn or of an older program: made again
  }
}

function keep(target: Target, kept: Kept): void {
  const file = fileOf(target);
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    writeFileSync(`${file}.${process.pid}`, JSON.stringify(kept));
    renameSync(`${file}.${process.pid}`, file);
  } catch {
    // A home that cannot be written costs a second at each start; what needs it says so itself.
  }
}

/** Names, sizes and times of everything that declares something. */
function stampOf(target: Target): string {
  const hash = createHash("sha256");
  const add = (path: string): void => {
    const facts = statSync(path, { throwIfNoEntry: false });
    hash.update(`${path} ${facts?.mtimeMs ?? 0} ${facts?.size ?? 0}\n`);
  };
  for (const folder of ["plugins", "daemon/operations"])
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      if (entry.isFile()) add(join(root, folder, entry.name));
      else if (folder === "plugins")
        for (const file of readdirSync(join(root, folder, entry.name)))
          if (file.endsWith(".ts")) add(join(root, folder, entry.name, file));
    }
  add(join(root, "package.json"));
  add(join(likelyHome(target), "plugins", "package.json"));
  add(join(likelyHome(target), "plugins", "bun.lock"));
  hash.update(
    process.cwd() === root
      ? ""
      : ["waver.config.ts", "waver.config.json", ".waverrc"]
          .map((name) => statSync(join(process.cwd(), name), { throwIfNoEntry: false })?.mtimeMs ?? "")
          .join(),
  );
  return hash.digest("hex");
}
