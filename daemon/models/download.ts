/**
 * One file of a model: in parts at once, each of which goes on where it was killed, then checked against the hub's digest and
 * given its name. Next to FILE.part lies what is known of it: its digest at the hub and how far each part has come.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { type FileHandle, mkdir, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";
import { type Hub, type HubFile, refused } from "./hub.ts";

export interface FetchOptions {
  readonly hub: Hub;
  readonly repository: string;
  readonly sha: string;
  /** Parts in flight at once. */
  readonly parallel: number;
  readonly signal: AbortSignal;
  /** Bytes that came in, negative when some have to come again. */
  onBytes(count: number): void;
}

/** A part is worth a request of its own from 1 MiB on, and is no longer than a stretch one would not like to repeat. */
const [LEAST, MOST] = [1 << 20, 64 << 20];
/** Tries in a row without a byte. */
const TRIES = 5;
const RETRY_MS = 500;
const SAVE_MS = 500;

const State = z.object({
  /** Of the content: another one means another file. */
  identity: z.string(),
  etag: z.string().nullable(),
  parts: z.array(z.object({ from: z.int(), to: z.int(), done: z.int() })),
});
type State = z.output<typeof State>;
type Part = State["parts"][number];

const identityOf = ({ size, sha256, gitSha1 }: HubFile): string => `${size} ${sha256 ?? gitSha1 ?? ""}`;

/** The file at `target`, complete and checked. Returns its SHA-256. */
export async function fetchFile(file: HubFile, target: string, options: FetchOptions): Promise<string> {
  await mkdir(dirname(target), { recursive: true });
  if (existsSync(target)) {
    // Only what was checked bears its name.
    options.onBytes(file.size);
    return sha256Of(target, options.signal);
  }
  const [partial, statePath] = [`${target}.part`, `${target}.part.json`];
  const state = await resumed(file, partial, statePath, options.parallel);
  options.onBytes(state.parts.reduce((sum, part) => sum + part.done, 0));
  try {
    {
      await using handle = await open(partial, existsSync(partial) ? "r+" : "w+");
      await new Fetch(file, handle, statePath, state, options).run();
      await handle.sync();
    }
    const digest = await checked(file, partial, options);
    await rename(partial, target);
    await rm(statePath, { force: true });
    return digest;
  } catch (error) {
    // What is wrong as a whole cannot be mended by going on with it.
    if (error instanceof WaverError && error.code === "checkpoint_invalid")
      for (const path of [partial, statePath]) await rm(path, { force: true });
    throw error;
  }
}

async function resumed(file: HubFile, partial: string, statePath: string, parallel: number): Promise<State> {
  const left = State.safeParse(JSON.parse(await readFile(statePath, "utf8").catch(() => "null")));
  if (left.success && left.data.identity === identityOf(file) && existsSync(partial)) return left.data;
  await rm(partial, { force: true });
  // One at a time is also for servers that know no ranges: then the file is one part.
  const length = parallel === 1 ? file.size : Math.min(MOST, Math.max(LEAST, Math.ceil(file.size / parallel)));
  const parts: Part[] = [];
  for (let from = 0; from < file.size; from += length)
    parts.push({ from, to: Math.min(file.size, from + length), done: 0 });
  return { identity: identityOf(file), etag: null, parts };
}

class Fetch {
  readonly #file: HubFile;
  readonly #handle: FileHandle;
  readonly #statePath: string;
  readonly #state: State;
  readonly #options: FetchOptions;
  #savedAt = 0;
  #saving: Promise<void> = Promise.resolve();

  constructor(file: HubFile, handle: FileHandle, statePath: string, state: State, options: FetchOptions) {
    this.#file = file;
    this.#handle = handle;
    this.#statePath = statePath;
    this.#state = state;
    this.#options = options;
  }

  async run(): Promise<void> {
    const open = this.#state.parts.filter((part) => part.from + part.done < part.to);
    const failed = new AbortController();
    const signal = AbortSignal.any([this.#options.signal, failed.signal]);
    const lane = async (): Promise<void> => {
      for (let part = open.shift(); part !== undefined; part = open.shift()) await this.#part(part, signal);
    };
    const lanes = Array.from({ length: this.#options.parallel }, () =>
      lane().catch((error: unknown) => {
        failed.abort(error);
        throw error;
      }),
    );
    await Promise.allSettled(lanes);
    await this.#save();
    // The first to fail says why; the others were only told to stop.
    this.#options.signal.throwIfAborted();
    failed.signal.throwIfAborted();
  }

  async #part(part: Part, signal: AbortSignal): Promise<void> {
    for (let tries = 0; part.from + part.done < part.to; ) {
      const before = part.done;
      try {
        await this.#stretch(part, signal);
      } catch (error) {
        signal.throwIfAborted();
        const known =
          error instanceof WaverError
            ? error
            : new WaverError("unreachable", "the download broke off", { cause: error });
        tries = part.done > before ? 0 : tries + 1;
        if (known.code !== "unreachable" || tries >= TRIES) throw known;
        await Bun.sleep(RETRY_MS * 2 ** tries);
      }
    }
  }

  /** One request: from where the part is to its end, or to where the connection breaks. */
  async #stretch(part: Part, signal: AbortSignal): Promise<void> {
    const { hub, repository, sha } = this.#options;
    const { etag } = this.#state;
    const headers = {
      Range: `bytes=${part.from + part.done}-${part.to - 1}`,
      ...(etag === null ? {} : { "If-Range": etag }),
    };
    const response = await hub.file(repository, sha, this.#file.path, headers, signal);
    const whole = part.from === 0 && part.to === this.#file.size;
    if (response.status === 200 && !whole) {
      await response.body?.cancel();
      throw new WaverError(
        "checkpoint_invalid",
        `${this.#file.path} changed at the hub while it was fetched, or is not given in parts`,
        {
          hint: "run the same command again; --parallel 1 needs no parts",
        },
      );
    }
    if (response.status !== 200 && response.status !== 206) {
      await response.body?.cancel();
      throw refused(response.status, this.#file.path);
    }
    // A whole file instead of its rest: from the beginning, then.
    if (response.status === 200) {
      this.#options.onBytes(-part.done);
      part.done = 0;
    }
    const tag = response.headers.get("etag");
    // Weak ones promise nothing about bytes.
    if (tag !== null && !tag.startsWith("W/")) this.#state.etag ??= tag;
    for await (const chunk of response.body ?? []) {
      signal.throwIfAborted();
      const room = part.to - part.from - part.done;
      const bytes = chunk.length > room ? chunk.subarray(0, room) : chunk;
      await this.#handle.write(bytes, 0, bytes.length, part.from + part.done);
      part.done += bytes.length;
      this.#options.onBytes(bytes.length);
      if (performance.now() - this.#savedAt > SAVE_MS) await this.#save();
      if (part.from + part.done >= part.to) return;
    }
    if (part.from + part.done < part.to) throw new WaverError("unreachable", `${this.#file.path} broke off`);
  }

  /** After the bytes it speaks of: a kill in between costs a stretch, never a hole. */
  async #save(): Promise<void> {
    this.#savedAt = performance.now();
    const text = JSON.stringify(this.#state);
    this.#saving = this.#saving.then(async () => {
      await writeFile(`${this.#statePath}.tmp`, text);
      await rename(`${this.#statePath}.tmp`, this.#statePath);
    });
    await this.#saving;
  }
}

async function checked(file: HubFile, path: string, { signal }: FetchOptions): Promise<string> {
  const wrong = (what: string): WaverError =>
    new WaverError("checkpoint_invalid", `${file.path} came in with another ${what} than the hub names`, {
      hint: "run the same command again: the file is fetched anew",
    });
  if ((await stat(path)).size !== file.size) throw wrong("size");
  const git = file.gitSha1 === undefined ? undefined : createHash("sha1").update(`blob ${file.size}\0`);
  const sha256 = await sha256Of(path, signal, git);
  if (file.sha256 !== undefined && sha256 !== file.sha256) throw wrong("digest");
  if (git !== undefined && git.digest("hex") !== file.gitSha1) throw wrong("digest");
  return sha256;
}

async function sha256Of(
  path: string,
  signal: AbortSignal,
  beside?: { update(data: Uint8Array): unknown },
): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) {
    hasher.update(chunk as Uint8Array);
    beside?.update(chunk as Uint8Array);
  }
  return hasher.digest("hex");
}
