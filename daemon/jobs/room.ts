/** Room on the disk: a reserve that lets the journal be written when nothing else can, and a floor for new work. */
import { closeSync, existsSync, fsyncSync, openSync, rmSync, writeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";

const RESERVE_BYTES = 4 << 20;
/** Below this no new job is accepted. */
const FLOOR_BYTES = 64 << 20;
/** How long one look at the disk is believed. */
const LOOK_MS = 2_000;

export class Room {
  readonly #home: string;
  readonly #reserve: string;
  #looked = Number.NEGATIVE_INFINITY;
  #free = Number.POSITIVE_INFINITY;

  constructor(home: string) {
    this.#home = home;
    this.#reserve = join(home, "reserve");
  }

  /** Throws disk_full when new work would probably not fit. Makes the reserve again when there is room for it. */
  async check(): Promise<void> {
    if (performance.now() - this.#looked > LOOK_MS) await this.#look();
    if (this.#free >= FLOOR_BYTES) return;
    throw new WaverError("disk_full", `only ${Math.round(this.#free / 2 ** 20)} MB are free where jobs work`, {
      hint: "free some space, then repeat the request",
    });
  }

  /** Whether jobs that a full disk stopped may go on: twice the floor, so that they do not stop again at once. */
  async isBack(): Promise<boolean> {
    return (await this.#look()) >= 2 * FLOOR_BYTES;
  }

  /** Whether it is this disk that is full, and not another one that a job wrote to. */
  async isLow(): Promise<boolean> {
    return (await this.#look()) < FLOOR_BYTES;
  }

  async #look(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#home);
    this.#free = bavail * bsize;
    this.#looked = performance.now();
    if (this.#free > FLOOR_BYTES + RESERVE_BYTES && !existsSync(this.#reserve)) this.#keep();
    return this.#free;
  }

  /** Gives the reserve back; false when it is gone already. */
  release(): boolean {
    if (!existsSync(this.#reserve)) return false;
    rmSync(this.#reserve);
    this.#looked = Number.NEGATIVE_INFINITY;
    return true;
  }

  #keep(): void {
    const fd = openSync(this.#reserve, "w", 0o600);
    // Random bytes: a file system that compresses would keep nothing in reserve otherwise.
    for (let written = 0; written < RESERVE_BYTES; written += 65_536)
      writeSync(fd, crypto.getRandomValues(new Uint8Array(65_536)));
    fsyncSync(fd);
    closeSync(fd);
  }
}
