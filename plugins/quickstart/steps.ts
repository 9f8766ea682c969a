/** Child jobs of the chain, and what each cost. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { type Context, type JobOutput, WaverError, type z } from "../index.ts";
import type { StageCost } from "./results.ts";

/** Runs child jobs and keeps count of what each cost. */
export class Steps {
  readonly costs: StageCost[] = [];
  readonly #total: number;

  constructor(
    readonly ctx: Context,
    total: number,
  ) {
    this.#total = total;
  }

  async run<T>(
    name: string,
    operation: string,
    input: Readonly<Record<string, unknown>>,
    output: z.ZodType<T>,
  ): Promise<T> {
    const job = await this.#child(operation, input);
    this.costs.push({ name, operation, seconds: job.seconds, peakBytes: job.peakBytes, isReused: job.reused });
    this.ctx.progress(Math.min(this.costs.length, this.#total), this.#total, "quick start", {
      step: name,
      reused: job.reused,
    });
    return output.parse(job.output);
  }

  /**
   * A training refuses to write over a folder. One of ours under a name that follows from its input can only be what
   * an earlier installation made of the same input, so it gives way.
   */
  async #child(operation: string, input: Readonly<Record<string, unknown>>): Promise<JobOutput> {
    try {
      return await this.ctx.run(operation, input);
    } catch (error) {
      const { output } = input;
      if (!(error instanceof WaverError) || error.code !== "conflict" || typeof output !== "string" || !isNamed(output))
        throw error;
      await rm(output, { recursive: true, force: true });
      return this.ctx.run(operation, input);
    }
  }
}

const isNamed = (folder: string): boolean => /-[0-9a-f]{8}$/.test(folder);

/** A name for a folder that follows from what is put into it: another request never meets an older one's folder. */
export const named = (folder: string, name: string, body: unknown): string =>
  join(folder, `${name}-${new Bun.CryptoHasher("sha256").update(JSON.stringify(body)).digest("hex").slice(0, 8)}`);
