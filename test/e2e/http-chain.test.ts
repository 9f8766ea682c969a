/**
 * The whole chain over HTTP alone: a real daemon with its real plugins and runners, plain requests to its socket, no CLI and
 * no client of ours. Sizes are the nano model's, steps are as few as each operation takes; bad files lie among the good.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findFfmpeg } from "../../daemon/media/ffmpeg.ts";
import { socketPath } from "../../daemon/socket.ts";
import { imageStage, PROFILES, refinerStage, videoStage } from "../../plugins/quickstart/profile.ts";
import { badFiles, ffmpeg, makeClip } from "../support/clips.ts";
import { type PluginHome, pluginHome } from "../support/plugin-package.ts";

type Json = Readonly<Record<string, unknown>>;

const ROOT = join(import.meta.dir, "../..");
const SEED = 1;
const PROFILE = { ...PROFILES.test, imageSteps: 1, videoSteps: 2, refinerSteps: 1 };
/** Two seconds, a little over: the 17 frames that the nano model sees at 8 a second. */
const SECONDS = 2.5;
const CAPTIONS = { "cells.mp4": "cells that grow", "zoom.mp4": "a zoom into a fractal" } as const;

let home: PluginHome;
let daemon: Bun.Subprocess<"ignore", "pipe", "inherit">;
const at = (...parts: string[]): string => join(home.folder, ...parts);

beforeAll(async () => {
  home = await pluginHome();
  await home.install({ name: "wp-throws", source: "throw new Error('no licence key')" });
  mkdirSync(at("videos"));
  const how = { size: "144x112", fps: 12 };
  const [life, zoom] = [
    "life=s=72x56:r=12:mold=10:life_color=#ff8800:death_color=#0044aa:ratio=0.3:seed=7",
    "mandelbrot=s=72x56:r=12:start_scale=1",
  ];
  await makeClip(at("videos/cells.mp4"), [{ source: life, seconds: SECONDS }], how);
  await makeClip(at("videos/zoom.mp4"), [{ source: zoom, seconds: SECONDS }], how);
  await badFiles(at("videos"));
  writeFileSync(
    at("captions.json"),
    JSON.stringify(Object.entries(CAPTIONS).map(([file, caption]) => ({ file, caption }))),
  );
  daemon = Bun.spawn([process.execPath, join(ROOT, "daemon/main.ts"), "--home", home.folder], {
    cwd: home.folder,
    env: {
      ...{ PATH: process.env["PATH"], HOME: process.env["HOME"], XDG_CONFIG_HOME: home.folder },
      ...{ WAVER_CACHE: at("cache"), WAVER_FFMPEG: findFfmpeg(), WAVER_WORKERS: "1" },
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { value } = await daemon.stdout.getReader().read();
  expect(JSON.parse(new TextDecoder().decode(value))).toMatchObject({ ready: true });
});

afterAll(async () => {
  daemon.kill("SIGTERM");
  expect(await daemon.exited).toBe(0);
  await home[Symbol.asyncDispose]();
});

const ask = (path: string, init: BunFetchRequestInit = {}): Promise<Response> =>
  fetch(`http://localhost${path}`, { ...init, unix: socketPath(home.folder) });
const post = (operation: string, body: Json): Promise<Response> =>
  ask(`/v1/${operation}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

interface Event {
  readonly type: string;
  readonly seq: number;
  readonly state?: string;
  readonly output?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
  readonly progress?: { readonly stage: string };
}

/** Posts a job and reads its stream of events to the end; the last one is the answer. */
async function job(operation: string, body: Json): Promise<Event> {
  const accepted = await post(operation, body);
  expect([accepted.status, accepted.status === 202 ? "" : await accepted.text()]).toEqual([202, ""]);
  const { id } = (await accepted.json()) as { id: string };
  const stream = await ask(`/v1/jobs/${id}/events`);
  expect(stream.headers.get("content-type")).toStartWith("text/event-stream");
  const blocks = (await stream.text()).split("\n\n").filter((block) => block.includes("data: "));
  const field = (block: string, name: string): string => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1] ?? "";
  const events = blocks.map((block) => JSON.parse(field(block, "data")) as Event);
  expect(blocks.map((block) => Number(field(block, "id")))).toEqual(events.map((_, i) => i + 1));
  expect(blocks.map((block) => field(block, "event"))).toEqual(events.map(({ type }) => type));
  return events.at(-1) as Event;
}

async function done<T = Json>(operation: string, body: Json): Promise<T> {
  const { state, error, output } = await job(operation, body);
  expect([state, error]).toEqual(["done", undefined]);
  return output as T;
}

async function failed(operation: string, body: Json): Promise<string> {
  const { state, error } = await job(operation, body);
  expect(state).toBe("failed");
  expect(error?.message).not.toMatch(/\n|0x/);
  return error?.code ?? "none";
}

/** Decodes every frame. */
async function framesOf(video: string): Promise<number> {
  await ffmpeg("-xerror", "-i", video, "-f", "framemd5", at("frames.txt"));
  return readFileSync(at("frames.txt"), "utf8")
    .split("\n")
    .filter((line) => /^\d/.test(line)).length;
}

interface Made {
  readonly path: string;
  readonly digest: string;
}

test("from videos to a judged clip whose ancestry ends at its source, by requests alone", async () => {
  const set = await done<{
    clips: number;
    kept: number;
    set: Made;
    sources: { path: string; digest: string; error?: { code: string } }[];
  }>("curate", {
    sources: [at("videos"), at("no such folder")],
    captions: at("captions.json"),
    set: { name: "mine", output: at("set") },
    scorers: [{ id: "basic" }, { id: "visual" }],
    embed: { id: "thumbprint" },
  });
  expect([set.clips, set.kept]).toEqual([2, 2]);
  expect(Object.fromEntries(set.sources.map(({ path, error }) => [path.split("/").at(-1), error?.code]))).toEqual({
    "cells.mp4": undefined,
    "zoom.mp4": undefined,
    "cut.mp4": "media_unreadable",
    "empty.mp4": "media_empty",
    "one-frame.mp4": "media_too_short",
    "text.mp4": "media_unreadable",
    "no such folder": "media_missing",
  });
  expect(existsSync(at("set/part-00000.parquet"))).toBe(true);
  const unfiltered = { sources: [at("videos")], set: { name: "unfiltered" }, embed: { id: "thumbprint" } };
  expect(await done("curate", { ...unfiltered, scorers: [{ id: "basic" }], selectors: ["dedup"] })).toMatchObject({
    kept: 2,
  });

  const trained = await done<Made & { snapshots: Made[] }>("train", {
    ...imageStage(PROFILE, SEED, join(ROOT, "configs/nano/vae")),
    ...videoStage(PROFILE, SEED),
    ...{ set: at("set"), output: at("model"), batch: 2, keepSnapshots: 2, snapshotEvery: 1 },
  });
  expect(trained.snapshots).toHaveLength(2);
  const merged = await done<Made & { merged: string[] }>("merge", {
    checkpoints: trained.snapshots.map(({ digest }) => digest),
    output: at("merged"),
  });
  expect(merged.merged).toContain("transformer");
  const refiner = await done<Made>("train", {
    ...refinerStage(PROFILE, SEED),
    ...{ set: set.set.digest, model: merged.digest, output: at("refiner"), batch: 1 },
  });

  const prompt = CAPTIONS["cells.mp4"];
  const { items } = await done<{ items: Made[] }>("generate", {
    ...{ model: refiner.path, prompt, numFrames: 5, numSteps: 2, seed: 3, output: at("clip.mp4") },
  });
  expect(items).toMatchObject([{ path: at("clip.mp4"), seed: 3, task: "t2v" }]);
  expect(await framesOf(at("clip.mp4"))).toBe(5);
  const refined = await done<Made>("refine", {
    ...{ model: refiner.digest, video: items[0]?.digest, numSteps: 1, output: at("large.mp4") },
  });
  expect(refined).toMatchObject({ path: at("large.mp4"), width: 128, height: 128, numFrames: 5, prompt });
  expect(await framesOf(at("large.mp4"))).toBe(5);

  const judged = await done<{ evaluation: string; path: string; results: Json }>("evaluate", {
    items: [{ id: "clip", video: at("large.mp4"), prompt, task: "t2v" }],
    references: Object.entries(CAPTIONS).map(([id, caption]) => ({ id, video: at("videos", id), caption })),
    evaluators: [{ id: "clips", embed: "thumbprint" }],
  });
  expect(judged.results).toMatchObject({ clips: { items: { clip: { nearestSimilarity: expect.any(Number) } } } });
  expect(existsSync(judged.path)).toBe(true);

  const answer = await post("trace", { of: judged.evaluation });
  expect(answer.status).toBe(200);
  const { nodes, edges } = (await answer.json()) as {
    nodes: { digest: string; operation: string | null }[];
    edges: { from: string; to: string; role: string }[];
  };
  const next = new Map(nodes.map(({ digest }) => [digest, edges.filter(({ from }) => from === digest)]));
  const ancestors = (digest: string): string[] => [
    digest,
    ...(next.get(digest) ?? []).flatMap(({ to }) => ancestors(to)),
  ];
  const sources = set.sources.flatMap(({ digest }) => digest ?? []);
  expect(ancestors(refined.digest)).toEqual(
    expect.arrayContaining([
      items[0]?.digest,
      refiner.digest,
      merged.digest,
      trained.snapshots[0]?.digest,
      set.set.digest,
      ...sources,
    ]),
  );
  expect(new Set(nodes.map(({ operation }) => operation))).toEqual(
    new Set(["evaluate", "refine", "generate", "train", "merge", "curate", null]),
  );

  // A checkpoint that was cut short ends in a code, and in no file.
  cpSync(at("merged"), at("cut"), { recursive: true });
  truncateSync(at("cut/transformer/diffusion_pytorch_model.safetensors"), 100_000);
  const request = { prompt, numFrames: 5, numSteps: 1, output: at("none.mp4") };
  expect(await failed("generate", { ...request, model: at("cut") })).toBe("checkpoint_truncated");
  expect(await failed("generate", { ...request, model: at("nowhere") })).toBe("checkpoint_missing");
  expect(existsSync(at("none.mp4"))).toBe(false);
}, 180_000);

test("the documents name every verb, an unknown field is refused, a plugin that throws is left out with its reason", async () => {
  const { paths } = (await (await ask("/openapi.json")).json()) as { paths: Json };
  const verbs = ["curate", "train", "generate", "refine", "merge", "evaluate", "trace"];
  for (const verb of verbs) {
    expect(paths).toHaveProperty([`/v1/${verb}`, "post"]);
    const refused = await post(verb, { colour: "red" });
    expect([verb, refused.status, ((await refused.json()) as { code: string }).code]).toEqual([
      verb,
      422,
      "unknown_option",
    ]);
  }
  const plugins = (await (await ask("/v1/plugins")).json()) as { name: string; state: string; reason: string }[];
  expect(plugins.find(({ name }) => name === "wp-throws")).toMatchObject({
    state: "failed",
    reason: "it threw while being imported: no licence key",
  });
  expect(plugins.filter(({ state }) => state !== "loaded").map(({ name }) => name)).toEqual(["wp-throws"]);
});
