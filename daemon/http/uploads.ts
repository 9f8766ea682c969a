/**
 * Pictures that come with a request instead of lying on the daemon's disk: a data URL, or a part of a multipart body. Kept by
 * content below <home>/uploads, where the job finds them by path; swept when nobody has used them for a week.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";

const KEPT_MS = 7 * 24 * 3_600_000;
/** Beyond it the longest unused go: 8 MB each, so that nobody fills the disk. */
const MOST = 200;

/** A file part of a multipart body. */
export class Upload {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** By their first bytes: what a sender calls a file proves nothing. */
const KINDS: readonly (readonly [extension: string, is: (bytes: Uint8Array) => boolean])[] = [
  [".png", (bytes) => starts(bytes, 0, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])],
  [".jpg", (bytes) => starts(bytes, 0, [0xff, 0xd8, 0xff])],
  [".webp", (bytes) => starts(bytes, 0, [0x52, 0x49, 0x46, 0x46]) && starts(bytes, 8, [0x57, 0x45, 0x42, 0x50])],
];
const starts = (bytes: Uint8Array, at: number, wanted: readonly number[]): boolean =>
  wanted.every((byte, i) => bytes[at + i] === byte);

export class Uploads {
  readonly #root: string;

  constructor(home: string) {
    this.#root = join(home, "uploads");
    mkdirSync(this.#root, { recursive: true, mode: 0o700 });
    this.#sweep();
  }

  #sweep(): void {
    const byUse = readdirSync(this.#root)
      .map((name) => join(this.#root, name))
      .map((path) => ({ path, usedAt: statSync(path).mtimeMs }))
      .sort((a, b) => b.usedAt - a.usedAt);
    for (const [i, { path, usedAt }] of byUse.entries())
      if (i >= MOST || Date.now() - usedAt > KEPT_MS) rmSync(path, { force: true });
  }

  /** Keeps a picture and gives its path. Refuses what is none. `where`: the field it came in. */
  picture(given: Uint8Array | string, where: string): string {
    const bytes = typeof given === "string" ? bytesOf(given, where) : given;
    const kind = KINDS.find(([, is]) => is(bytes));
    if (kind === undefined)
      throw new WaverError("invalid_input", `${where} is not an image`, { hint: "send a PNG, JPEG or WebP file" });
    const path = join(this.#root, new Bun.CryptoHasher("sha256").update(bytes).digest("hex") + kind[0]);
    if (existsSync(path)) {
      const now = new Date();
      utimesSync(path, now, now);
    } else {
      writeFileSync(`${path}.${process.pid}.tmp`, bytes, { mode: 0o600 });
      renameSync(`${path}.${process.pid}.tmp`, path);
      this.#sweep();
    }
    return path;
  }
}

function bytesOf(url: string, where: string): Uint8Array {
  const data = /^data:[a-z]+\/[a-z0-9.+-]+;base64,([A-Za-z0-9+/]+={0,2})$/.exec(url)?.[1];
  if (data === undefined)
    throw new WaverError("invalid_input", `${where} is not a data URL with a base64 image`, {
      hint: "data:image/png;base64,...; addresses of other servers are not fetched",
    });
  return Buffer.from(data, "base64");
}
