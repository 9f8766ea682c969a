/**
 * Videos in the shape of OpenAI's API, and bad requests, against a real daemon on its socket and on TCP: a small real pipeline
 * goes in by its folder, an MP4 comes out.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodePng } from "../../daemon/generation/png.ts";
import { createMedia } from "../../daemon/media/index.ts";
import { Golden } from "../parity/golden.ts";
import { RealDaemon } from "../support/real-daemon.ts";

const MODEL = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");
const CLI = join(import.meta.dir, "../../cli/index.ts");
const SMALL = { model: MODEL, prompt: "a cat walks", size: "32x32", num_frames: 5, num_inference_steps: 2, fps: 8 };
const JSON_TYPE = { "Content-Type": "application/json" };

let daemon: RealDaemon;
let url: string;
let token: string;
beforeAll(async () => {
  daemon = await RealDaemon.start({ WAVER_TCP_PORT: "0" });
  url = daemon.addresses[1] as string;
  token = readFileSync(join(daemon.home, "token"), "utf8").trim();
});
afterAll(() => daemon[Symbol.asyncDispose]());

const ask = (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(url + path, {
    ...init,
    headers: { Authorization: `Bearer ${token}`, ...(init.headers as Record<string, string>) },
  });
const create = (body: unknown): Promise<Response> =>
  ask("/v1/videos", { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body) });

interface Video {
  readonly id: string;
  readonly status: string;
  readonly progress: number;
  readonly completed_at: number | null;
  readonly error: { code: string; message: string } | null;
}
async function finished(id: string): Promise<Video> {
  for (;;) {
    const video = (await (await ask(`/v1/videos/${id}`)).json()) as Video;
    if (video.status === "completed" || video.status === "failed") return video;
    await Bun.sleep(50);
  }
}

describe("a video", () => {
  test("is asked for, watched, fetched whole and by range, listed and deleted", async () => {
    const accepted = await create(SMALL);
    expect(accepted.status).toBe(200);
    const video = (await accepted.json()) as Video;
    expect(video).toMatchObject({
      object: "video",
      model: "pipeline",
      prompt: "a cat walks",
      size: "32x32",
      error: null,
    });
    expect(video.id).toMatch(/^video_[0-9a-z]{16}$/);
    const done = await finished(video.id);
    expect(done).toMatchObject({ status: "completed", progress: 100 });
    expect(done.completed_at).toBeGreaterThan(1e9);

    const content = await ask(`/v1/videos/${video.id}/content`);
    expect([content.status, content.headers.get("content-type")]).toEqual([200, "video/mp4"]);
    const bytes = await content.bytes();
    const file = join(daemon.home, "fetched.mp4");
    writeFileSync(file, bytes);
    const media = createMedia({ signal: new AbortController().signal });
    expect(await media.probe(file)).toMatchObject({ width: 32, height: 32, numFrames: 5, fps: 8 });
    const part = await ask(`/v1/videos/${video.id}/content?variant=video`, { headers: { Range: "bytes=4-7" } });
    expect([part.status, await part.text()]).toEqual([206, "ftyp"]);
    expect((await ask(`/v1/videos/${video.id}/content?variant=thumbnail`)).status).toBe(422);

    const second = (await (await create({ ...SMALL, seed: 2 })).json()) as Video;
    await finished(second.id);
    const page = async (query: string): Promise<{ data: Video[]; has_more: boolean }> =>
      (await (await ask(`/v1/videos?${query}`)).json()) as never;
    expect((await page("")).data.map(({ id }) => id)).toEqual([second.id, video.id]);
    expect(await page("limit=1")).toMatchObject({ data: [{ id: second.id }], has_more: true });
    expect(await page(`limit=1&after=${second.id}`)).toMatchObject({ data: [{ id: video.id }], has_more: false });
    expect((await page("order=asc")).data.map(({ id }) => id)).toEqual([video.id, second.id]);

    const gone = await ask(`/v1/videos/${video.id}`, { method: "DELETE" });
    expect(await gone.json()).toEqual({ id: video.id, object: "video.deleted", deleted: true });
    for (const path of ["", "/content"]) expect((await ask(`/v1/videos/${video.id}${path}`)).status).toBe(404);
    expect((await page("")).data.map(({ id }) => id)).toEqual([second.id]);
  });

  test("of a published pipeline from stored latents is the reference's, at over 40 dB", async () => {
    const folder = join(import.meta.dir, "../golden/pipeline_wan_t2v");
    const reference = new Golden(folder);
    const { prompt, negative_prompt } = reference.params as Record<string, string>;
    const { id } = (await (
      await create({
        ...{ model: MODEL, prompt, negative_prompt, size: "48x32", num_frames: 9, num_inference_steps: 4 },
        ...{ guidance_scale: 5, max_sequence_length: 64, latents: `${join(folder, "io.safetensors")}#in.latents` },
      })
    ).json()) as Video;
    expect(await finished(id)).toMatchObject({ status: "completed", error: null });
    const file = join(daemon.home, "golden.mp4");
    writeFileSync(file, await (await ask(`/v1/videos/${id}/content`)).bytes());
    // [1 9 3 32 48] in [0, 1], before encoding
    const frames = reference.reference("video").data;
    const view = { width: 48, height: 32, fit: "stretch", rate: "native", format: "rgb24", batch: 9 } as const;
    let [squares, at] = [0, 0];
    const size = 48 * 32;
    for await (const { data } of createMedia({ signal: new AbortController().signal }).frames(file, view))
      for (const value of data) {
        const [frame, pixel, channel] = [Math.floor(at / 3 / size), Math.floor(at / 3) % size, at % 3];
        squares += (value - 255 * Number(frames[(frame * 3 + channel) * size + pixel])) ** 2;
        at++;
      }
    expect(at).toBe(frames.length);
    expect(10 * Math.log10(255 ** 2 / (squares / at))).toBeGreaterThan(40);
  });

  test("has the length that was asked for, as near as the codec comes", async () => {
    const { num_frames: _, ...rest } = SMALL;
    const { id } = (await (await create({ ...rest, seconds: "1" })).json()) as Video;
    await finished(id);
    const file = join(daemon.home, "second.mp4");
    writeFileSync(file, await (await ask(`/v1/videos/${id}/content`)).bytes());
    // eight frames in a second: nine is nearer than five
    expect((await createMedia({ signal: new AbortController().signal }).probe(file)).numFrames).toBe(9);
  });

  test("that is being made ends when it is deleted", async () => {
    const { id } = (await (
      await create({ ...SMALL, num_inference_steps: 1000, num_frames: 33, seed: 3 })
    ).json()) as Video;
    expect((await ask(`/v1/videos/${id}/content`)).status).toBe(409);
    expect((await ask(`/v1/videos/${id}`, { method: "DELETE" })).status).toBe(200);
    const job = await daemon.client.wait(id.replace("video", "job")).catch((error: { code: string }) => error.code);
    expect(job).toBe("cancelled");
  });

  test("shares a key with its repetition", async () => {
    const again = {
      method: "POST",
      body: JSON.stringify({ ...SMALL, seed: 4 }),
      headers: { ...JSON_TYPE, "Idempotency-Key": "k4" },
    };
    const [one, two] = [await ask("/v1/videos", again), await ask("/v1/videos", again)];
    expect(((await one.json()) as Video).id).toBe(((await two.json()) as Video).id);
  });
});

describe("a picture", () => {
  const png = encodePng(new Uint8Array(32 * 32 * 3).fill(90), 32, 32);
  const form = (file: Blob | string): FormData => {
    const data = new FormData();
    for (const [key, value] of Object.entries(SMALL)) data.set(key, String(value));
    data.set("input_reference", file as Blob);
    return data;
  };

  test("comes as a data URL or as a part of a form, and reaches the model", async () => {
    const data = `data:image/png;base64,${Buffer.from(png).toString("base64")}`;
    const bodies = [data, { image_url: data }].map((input_reference) => create({ ...SMALL, input_reference }));
    const forms = [
      ask("/v1/videos", { method: "POST", body: form(new Blob([new Uint8Array(png)], { type: "image/png" })) }),
    ];
    for (const answer of await Promise.all([...bodies, ...forms])) {
      expect(answer.status).toBe(200);
      // this checkpoint has no room for an image, which is only known once it was looked at
      const video = await finished(((await answer.json()) as Video).id);
      expect(video.error?.message).toContain("makes video from text only");
    }
  });

  test("that is none, or lies on another server, is refused in one sentence", async () => {
    const cases: [unknown, RegExp][] = [
      [`data:image/png;base64,${Buffer.from("<svg/>").toString("base64")}`, /input_reference is not an image/],
      ["https://example.org/a.png", /not a data URL/],
      ["data:text/html,<p>", /not a data URL/],
    ];
    for (const [input_reference, message] of cases) {
      const answer = await create({ ...SMALL, input_reference });
      const body = (await answer.json()) as { message: string; error: { message: string; type: string } };
      expect([answer.status, body.error.type]).toEqual([422, "invalid_request_error"]);
      expect(body.error.message).toMatch(message);
      expect(body.message).toBe(body.error.message);
    }
    const text = await ask("/v1/videos", {
      method: "POST",
      body: form(new Blob(["no picture"], { type: "image/png" })),
    });
    expect(text.status).toBe(422);
  });

  test("in a form is taken only from who shows the token, and only there", async () => {
    const send = (path: string, headers: Record<string, string>): Promise<Response> =>
      fetch(url + path, { method: "POST", body: form(new Blob([new Uint8Array(png)])), headers });
    expect((await send("/v1/videos", {})).status).toBe(401);
    expect((await send("/v1/generate", { Authorization: `Bearer ${token}` })).status).toBe(415);
    expect((await send("/v1/uploads", { Authorization: `Bearer ${token}` })).status).toBe(415);
    const twice = form(new Blob([new Uint8Array(png)]));
    twice.append("prompt", "again");
    expect((await ask("/v1/videos", { method: "POST", body: twice })).status).toBe(422);
    const poisoned = form(new Blob([new Uint8Array(png)]));
    poisoned.append("__proto__", "x");
    expect((await ask("/v1/videos", { method: "POST", body: poisoned })).status).toBe(422);
    const broken = {
      method: "POST",
      body: "--x\r\nnonsense",
      headers: { "Content-Type": "multipart/form-data; boundary=x" },
    };
    expect((await ask("/v1/videos", broken)).status).toBe(422);
  });
});

const BAD: readonly (readonly [name: string, input: Record<string, unknown>, message: RegExp, knob: RegExp])[] = [
  ["an empty prompt", { prompt: "" }, /prompt: it is empty/, /what to show/],
  ["a prompt of blanks", { prompt: " \n" }, /prompt: it is empty/, /what to show/],
  ["a prompt of 100,000 characters", { prompt: "x".repeat(100_000) }, /100000 characters/, /promptFile/],
  [
    "a negative prompt of 100,000 characters",
    { negativePrompt: "x".repeat(100_000) },
    /negativePrompt: .*100000/,
    /20000/,
  ],
  ["no prompt", { prompt: undefined }, /either prompt or promptFile/, /promptFile/],
  ["an unknown scheduler", { sampler: { id: "unipcc" } }, /no provider of sample is named unipcc/, /unipc/],
  ["frames that are not 4n + 1", { numFrames: 8 }, /numFrames 8/, /5 or 9/],
  ["frames and seconds", { seconds: 2 }, /either seconds or numFrames/, /seconds/],
  ["a width that does not divide", { width: 40 }, /width 40/, /32 or 48/],
  ["a width of nothing", { width: 0 }, /width/, /width/],
  ["no steps", { numSteps: 0 }, /numSteps/, /numSteps/],
  ["an option that is not there", { guidance: 3 }, /no option guidance/, /guide/],
  ["a model that is not there", { model: "no-such-model" }, /no model/, /waver pull|models list/],
  ["an image that is none", { image: CLI }, /image|picture|text only/, /./],
];

describe("a bad request", () => {
  const good = { model: MODEL, prompt: "x", width: 16, height: 16, numFrames: 5, numSteps: 1, maxTokens: 8 };

  test.each(BAD)("%s ends in one sentence over HTTP that names the knob", async (_, input, message, knob) => {
    const answer = await ask("/v1/generate", {
      method: "POST",
      headers: JSON_TYPE,
      body: JSON.stringify({ ...good, ...input }),
    });
    let body = (await answer.json()) as { id: string; message: string; hint?: string };
    if (answer.status === 202)
      body = await daemon.client.wait(body.id).then(
        () => expect.unreachable(),
        (error: typeof body) => error,
      );
    else expect(answer.status).toBe(422);
    expect(body.message).toMatch(message);
    expect(`${body.message} ${body.hint ?? ""}`).toMatch(knob);
    expect(body.message).not.toContain("\n");
    expect(body.message.length).toBeLessThan(300);
  });

  test("is the shell's too, with the code of a mistake", async () => {
    const run = (...more: string[]): { code: number; text: string } => {
      const argv = [
        "generate",
        "--home",
        daemon.home,
        "--model",
        MODEL,
        "--width",
        "16",
        "--height",
        "16",
        "--max-tokens",
        "8",
      ];
      const child = Bun.spawnSync([process.execPath, CLI, ...argv, ...more], {
        env: { PATH: process.env["PATH"], HOME: daemon.home, XDG_CONFIG_HOME: daemon.home },
      });
      return { code: child.exitCode, text: child.stderr.toString() + child.stdout.toString() };
    };
    const cases: [string[], RegExp][] = [
      [["--prompt", "", "--num-frames", "5"], /prompt: it is empty; say in words what to show/],
      [["--prompt", "x".repeat(100_000), "--num-frames", "5"], /prompt: it has 100000 characters/],
      [["--prompt", "x", "--num-frames", "8"], /numFrames 8 is not 1 more than a multiple of 4[\s\S]*use 5 or 9/],
      [
        ["--prompt", "x", "--num-frames", "5", "--sampler", "unipcc"],
        /no provider is named unipcc[\s\S]*did you mean unipc/,
      ],
    ];
    for (const [argv, wanted] of cases) {
      const { code, text } = run(...argv);
      expect(text).toMatch(wanted);
      expect(code).toBe(2);
    }
  });
});

test("a request that leaves out what is needed is told what that is", async () => {
  for (const [left, message] of [
    ["model", /body.model: name a model; `waver models list`/],
    ["prompt", /body.prompt: say in words/],
  ] as const) {
    const answer = await create({ ...SMALL, [left]: undefined });
    expect(answer.status).toBe(422);
    expect(((await answer.json()) as { error: { message: string } }).error.message).toMatch(message);
  }
});

test("prompts from a file make a video each, in the shell", async () => {
  writeFileSync(join(daemon.home, "prompts.txt"), "a cat walks\n\n  a dog runs  \n");
  const size = ["--width", "16", "--height", "16", "--num-frames", "5", "--num-steps", "1", "--max-tokens", "8"];
  const argv = ["generate", "--home", daemon.home, "--model", MODEL, "--prompt-file", "prompts.txt", ...size];
  const run = async (...more: string[]): Promise<{ code: number; text: string }> => {
    const child = Bun.spawn([process.execPath, CLI, ...argv, ...more], {
      env: { PATH: process.env["PATH"], HOME: daemon.home, XDG_CONFIG_HOME: daemon.home },
      cwd: daemon.home,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const said = [new Response(child.stdout).text(), new Response(child.stderr).text()];
    return { text: (await Promise.all(said)).join(""), code: await child.exited };
  };
  const { code } = await run("--output", "both/", "--priority", "7");
  expect(code).toBe(0);
  expect(readdirSync(join(daemon.home, "both")).sort()).toEqual(["000-a-cat-walks-0.mp4", "001-a-dog-runs-0.mp4"]);
  expect((await daemon.client.jobs({ operation: "generate", limit: 1 }))[0]?.priority).toBe(7);
  const wrong = await run("--priority", "high");
  expect([wrong.code, wrong.text]).toEqual([
    2,
    expect.stringContaining("--priority is a whole number from -100 to 100"),
  ]);
});

test("OpenAPI has the videos, with both kinds of body", async () => {
  const { paths } = (await (await ask("/openapi.json")).json()) as {
    paths: Record<string, Record<string, { requestBody?: { content: object } }>>;
  };
  expect(Object.keys(paths["/v1/videos"] ?? {}).sort()).toEqual(["get", "post"]);
  expect(Object.keys(paths["/v1/videos"]?.["post"]?.requestBody?.content ?? {})).toEqual([
    "application/json",
    "multipart/form-data",
  ]);
  expect(Object.keys(paths["/v1/videos/{video}"] ?? {}).sort()).toEqual(["delete", "get"]);
  expect(paths["/v1/videos/{video}/content"]?.["get"]).toBeDefined();
});
