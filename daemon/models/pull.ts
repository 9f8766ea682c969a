/** A model from the hub into <home>/models: every file fetched and checked beside its place, then the folder at once. */
import { existsSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { mkdir, rename, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { type Context, WaverError } from "../../plugins/index.ts";
import { exclusive } from "../jobs/pidfile.ts";
import { fetchFile } from "./download.ts";
import { Hub, type HubFile, type HubOptions } from "./hub.ts";
import { type ModelRecord, modelFolder, modelsFolder, readRecord, writeRecord } from "./place.ts";
import type { Source } from "./recipe.ts";

/** Weights of other programs, and formats that run code when they are read: nothing here opens them. */
const FOREIGN = ["**/*.{bin,pt,pth,ckpt,pkl,pickle,msgpack,h5,onnx,ot,tflite,mlmodel}", "**/.git*"];
/** Left free on the disk, so that journal and store can go on. */
const RESERVE = 1e9;

export interface PullRequest extends Source {
  readonly include: readonly string[];
  readonly parallel: number;
}

export interface Pulled extends ModelRecord {
  readonly path: string;
  /** True when this very commit was here already. */
  readonly present: boolean;
}

export async function pull(home: string, hubOptions: HubOptions, request: PullRequest, ctx: Context): Promise<Pulled> {
  const { name, repository } = request;
  const source = `hf:${repository}`;
  const here = readRecord(home, name);
  if (here !== null && here.source !== source)
    throw new WaverError("conflict", `the name ${name} is taken by ${here.source}`, {
      hint: "give this one another name: --name NAME",
    });
  if (here === null && existsSync(modelFolder(home, name)))
    throw new WaverError("conflict", `a folder ${name} that was not pulled lies among the models`, {
      hint: "give this one another name: --name NAME",
    });
  const hub = new Hub(hubOptions);
  const { sha, files } = await hub.revision(repository, request.revision, ctx.signal);
  const path = modelFolder(home, name);
  if (here?.revision === sha) return { ...here, path, present: true };

  const wanted = chosen(files, request);
  const total = wanted.reduce((sum, { size }) => sum + size, 0);
  const staging = join(modelsFolder(home), ".pulling");
  mkdirSync(staging, { recursive: true, mode: 0o700 });
  using lock = exclusive(join(staging, `${name}.lock`));
  if (lock === null)
    throw new WaverError("conflict", `${name} is being pulled already`, {
      hint: "watch it: waver jobs list --operation pull",
    });
  const folder = join(staging, `${name}@${sha}`);
  await forgetOthers(staging, name, folder);
  await mkdir(folder, { recursive: true });
  await checkRoom(folder, total);

  let done = 0;
  const tell = (file: string): void => ctx.progress(done / 1e6, total / 1e6, "megabytes", { file });
  const record: ModelRecord["files"][number][] = [];
  // Large ones first: what may fail, fails early.
  for (const file of [...wanted].sort((a, b) => b.size - a.size)) {
    tell(file.path);
    const sha256 = await fetchFile(file, join(folder, file.path), {
      ...{ hub, repository, sha, parallel: request.parallel, signal: ctx.signal },
      onBytes: (count) => {
        done += count;
        tell(file.path);
      },
    });
    record.push({ path: file.path, size: file.size, sha256 });
  }
  record.sort((a, b) => (a.path < b.path ? -1 : 1));
  const pulledAt = new Date().toISOString();
  const fresh: ModelRecord = { name, source, revision: sha, pulledAt, bytes: total, files: record };
  await replace(path, folder, staging);
  writeRecord(home, fresh);
  return { ...fresh, path, present: false };
}

function chosen(files: readonly HubFile[], { include, exclude, repository }: PullRequest): HubFile[] {
  const any = (patterns: readonly string[], path: string): boolean =>
    patterns.some((pattern) => new Bun.Glob(pattern).match(path));
  const wanted = files.filter(({ path }) =>
    include.length > 0 ? any(include, path) : !any(FOREIGN, path) && !any(exclude, path),
  );
  if (wanted.length > 0) return wanted;
  throw new WaverError("not_found", `${repository} has no file that this would fetch`, {
    hint: `it has ${
      files
        .slice(0, 5)
        .map(({ path }) => path)
        .join(", ") || "none"
    }; --include takes patterns`,
  });
}

/** What was begun of an earlier commit of this model. */
async function forgetOthers(staging: string, name: string, folder: string): Promise<void> {
  for (const entry of readdirSync(staging))
    if (entry.startsWith(`${name}@`) && join(staging, entry) !== folder)
      await rm(join(staging, entry), { recursive: true, force: true });
}

async function checkRoom(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize > bytes + RESERVE) return;
  throw new WaverError(
    "disk_full",
    `${(bytes / 1e9).toFixed(1)} GB do not fit: ${((bavail * bsize) / 1e9).toFixed(1)} GB are free`,
    {
      hint: "free some space (waver models list shows sizes), or set WAVER_HOME to a larger disk",
    },
  );
}

async function replace(path: string, fresh: string, staging: string): Promise<void> {
  if (!existsSync(path)) return rename(fresh, path);
  const old = join(staging, `old-${crypto.randomUUID()}`);
  renameSync(path, old);
  renameSync(fresh, path);
  await rm(old, { recursive: true, force: true });
}
