/** A real daemon whose jobs run on several ranks, with two small pipelines, Wan's and Waver's. */
import { expect } from "bun:test";
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { findFfmpeg } from "../../daemon/media/ffmpeg.ts";
import type { JobView } from "../../daemon/wire.ts";
import { Generator, normal_, openSafetensors, scope, setThreads } from "../../native/index.ts";
import { fresh, save } from "../../plugins/waver/checkpoint.ts";
import { WaverParams } from "../../plugins/waver/params.ts";
import { temporaryHome } from "./daemon.ts";
import { TINY_REFINER } from "./tiny-model.ts";
import { tinyPipeline } from "./tiny-pipeline.ts";

const ROOT = join(import.meta.dir, "../..");
/** 2 heads, 2 blocks; 48 x 32 pixels are 2 x 2 x 3 tokens. */
const WAN = join(ROOT, "test/golden/pipeline_wan_t2v/pipeline");
const requests = {
  wan: { model: WAN, width: 48, height: 32, numFrames: 5, numSteps: 4, maxTokens: 16 },
  waver: { numSteps: 4 },
};
export type Family = keyof typeof requests;

export class RankDaemon implements AsyncDisposable {
  readonly home = temporaryHome();
  readonly client: Client = createClient({ home: this.home });
  #waver = "";
  #process!: Bun.Subprocess<"ignore", "pipe", "inherit">;

  private constructor(private readonly device: string) {}

  static async open(device = "cpu"): Promise<RankDaemon> {
    setThreads(1);
    const made = new RankDaemon(device);
    made.#waver = await tinyPipeline(join(made.home, "tiny"));
    await made.start();
    return made;
  }

  async start(): Promise<void> {
    this.#process = Bun.spawn([process.execPath, join(ROOT, "daemon/main.ts"), "--home", this.home], {
      cwd: this.home,
      env: {
        ...{ PATH: process.env["PATH"], HOME: process.env["HOME"], XDG_CONFIG_HOME: this.home },
        // one thread everywhere: a convolution's last bits depend on their number
        ...{
          WAVER_CACHE: join(this.home, "cache"),
          WAVER_FFMPEG: findFfmpeg(),
          WAVER_WORKERS: "1",
          WAVER_THREADS: "1",
          WAVER_DEVICE: this.device,
        },
        OMP_WAIT_POLICY: "PASSIVE",
      },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { value } = await this.#process.stdout.getReader().read();
    expect(JSON.parse(new TextDecoder().decode(value))).toMatchObject({ ready: true });
  }
  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }

  /** A copy of Waver's pipeline with a refiner of random weights. */
  async withRefiner(): Promise<string> {
    const folder = join(this.home, "with-refiner");
    cpSync(this.#waver, folder, { recursive: true });
    using generator = new Generator(5);
    using network = fresh(WaverParams.parse(TINY_REFINER.config), 1);
    for (const weight of network.parameters()) normal_(weight, 0, 0.2, generator); // fresh gates are zero: nothing would matter
    await save(network, join(folder, "refiner"));
    const index = join(folder, "model_index.json");
    const refiner = ["waver", "WaverTransformer3DModel"];
    writeFileSync(index, JSON.stringify({ ...JSON.parse(readFileSync(index, "utf8")), refiner }));
    return folder;
  }

  body(family: Family, more: object): Record<string, unknown> {
    return {
      ...(family === "waver" ? { model: this.#waver } : {}),
      ...requests[family],
      ...{ prompt: "a red ball rolls over grass", negativePrompt: "blurred", seed: 7, keepLatents: true },
      ...more,
    };
  }
  async latents(job: JobView): Promise<Float32Array> {
    expect(job.error ?? null).toBeNull();
    const [item] = (job.output as { items: { latents: string }[] }).items;
    using file = openSafetensors((item as { latents: string }).latents);
    return scope(() => file.get("latents").toFloat32Array());
  }
  async generated(family: Family, more: object = {}): Promise<Float32Array> {
    const { id } = await this.client.submit("generate", this.body(family, more));
    return this.latents(await this.client.wait(id));
  }

  /** Processes of the daemon that are ranks, by their command lines. */
  ranks(): { pid: number; rank: number }[] {
    return readdirSync("/proc").flatMap((name) => {
      if (!/^\d+$/.test(name)) return [];
      try {
        const parent = /^\d+ \(.*\) \S (\d+)/.exec(readFileSync(`/proc/${name}/stat`, "utf8"))?.[1];
        const rank = /"rank":(\d+)/.exec(readFileSync(`/proc/${name}/cmdline`, "utf8"))?.[1];
        const isOurs = Number(parent) === this.#process.pid && rank !== undefined;
        return isOurs ? [{ pid: Number(name), rank: Number(rank) }] : [];
      } catch {
        return []; // it ended meanwhile
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.exited;
    rmSync(this.home, { recursive: true, force: true });
  }
}
