/**
 * A generation whose runner and daemon are killed at random moments makes the file that an undisturbed one makes, byte for
 * byte. Real processes, a real pipeline from a folder; `--long` is the figure of the issue (20 points and more).
 */
import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Savings } from "../../daemon/generation/acceleration.ts";
import { RealDaemon } from "../support/real-daemon.ts";

const MODEL = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");
const isLong = (process.env["WAVER_TEST_SIZE"] ?? "default") !== "default";
/** Each generation is killed twice, its runner and its daemon, in either order. */
const GENERATIONS = isLong ? 24 : 2;
/** Long enough that the state of the denoising is saved on the way, not only that of what is finished. */
const STEPS = isLong ? 900 : 240;

/** In half of them: what these remember must be there again as well. */
const REMEMBERING = { cache: { id: "first-block", threshold: 0.3 }, guide: { id: "apg", scale: 5, momentum: -0.5 } };

const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

test(
  `${GENERATIONS} generations, each with its runner and its daemon killed at random points, give the identical file`,
  async () => {
    await using daemon = await RealDaemon.start();
    const submit = async (
      name: string,
      how: Readonly<Record<string, unknown>> = {},
    ): Promise<{ id: string; output: string }> => {
      const output = join(daemon.home, `${name}.mp4`);
      // Another output is other work: nothing is reused, and the file must still be the same.
      const { id } = await daemon.client.submit("generate", {
        ...{ model: MODEL, prompt: "a cat walks over grass", negativePrompt: "blurry", seed: 7, maxTokens: 16 },
        ...{ width: 64, height: 64, numFrames: 17, numSteps: STEPS, output },
        ...how,
      });
      return { id, output };
    };
    const whole = await submit("whole");
    await daemon.client.wait(whole.id);
    const warm = await submit("warm");
    const { seconds } = await daemon.client.wait(warm.id);
    const wanted = sha256(whole.output);
    expect(sha256(warm.output)).toBe(wanted);
    const cached = await submit("cached", REMEMBERING);
    const { cache } = (await daemon.client.wait(cached.id)).output as { cache: Savings };
    // some passes were cut and some were not
    expect(cache.cutPasses * (cache.passes - cache.cutPasses)).toBeGreaterThan(0);
    const wantedOf = { plain: wanted, cached: sha256(cached.output) };
    expect(wantedOf.cached).not.toBe(wanted);

    const attempts: number[] = [];
    const stages: string[] = [];
    for (let n = 0; n < GENERATIONS; n++) {
      // half of them with weights that come and go, which changes no number; half with what remembers, either with either victim first
      const isCached = (n + (n >> 1)) % 2 === 1;
      const { id, output } = await submit(`killed-${n}`, {
        offload: n % 2 === 0 ? "auto" : "blocks",
        ...(isCached ? REMEMBERING : {}),
      });
      const victims = n % 2 === 0 ? (["runner", "daemon"] as const) : (["daemon", "runner"] as const);
      for (const victim of victims) {
        await Bun.sleep(Math.random() * (seconds + 0.5) * 1000);
        const { progress, state } = await daemon.client.job(id);
        stages.push(state === "running" ? `${progress?.stage ?? "starting"} ${progress?.done ?? ""}` : state);
        if (victim === "runner") await daemon.killRunner();
        else {
          await daemon.kill();
          await daemon.start();
        }
      }
      const job = await daemon.client.wait(id);
      attempts.push(job.attempt);
      expect(sha256(output)).toBe(isCached ? wantedOf.cached : wantedOf.plain);
    }
    console.log(
      JSON.stringify({
        id: "kill-generate",
        generations: GENERATIONS,
        kills: 2 * GENERATIONS,
        differ: 0,
        seconds,
        attempts,
        stages,
      }),
    );
    expect(Math.max(...attempts)).toBeGreaterThan(1);
  },
  120_000 + GENERATIONS * 60_000,
);
