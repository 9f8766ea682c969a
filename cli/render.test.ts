import { describe, expect, test } from "bun:test";
import type { JobEvent, JobId, JobView } from "../daemon/wire.ts";
import type { Followed } from "./follow.ts";
import { createRenderer } from "./render.ts";
import { clock, plain, styleOf } from "./style.ts";
import { outputLines } from "./summary.ts";

const id = "job_0000000000000000" as JobId;
const job: Followed = { id, operation: "train", depth: 0 };
const child: Followed = { id: "job_1111111111111111", operation: "prepare", depth: 1 };
let seq = 0;
const at = (seconds: number): { seq: number; time: string; job: JobId } => ({
  seq: ++seq,
  time: new Date(1_700_000_000_000 + seconds * 1000).toISOString(),
  job: id,
});
const progress = (seconds: number, stage: string, done: number, total: number, more: object = {}): JobEvent => ({
  type: "progress",
  ...at(seconds),
  progress: { stage, done, total, ...more },
});
const state = (seconds: number, to: "queued" | "running" | "done" | "failed", more: object = {}): JobEvent => ({
  type: "state",
  ...at(seconds),
  state: to,
  attempt: 1,
  ...more,
});
const view: JobView = {
  id,
  operation: "train",
  state: "done",
  priority: 0,
  attempt: 1,
  createdAt: "",
  startedAt: null,
  finishedAt: null,
  parent: null,
  reused: false,
  input: {},
  output: {
    checkpoint: "/data/model",
    numSteps: 10,
    losses: { first: 1.23456, last: 0.1 },
    clips: [
      { id: "a", psnr: 20.5 },
      { id: "bc", psnr: 9 },
    ],
  },
  peakBytes: 2.5e9,
  seconds: 75,
};

function pipe(): { out: { write(text: string): void; isTTY?: boolean; columns?: number }; text(): string } {
  let text = "";
  const write = (more: string): void => {
    text += more;
  };
  return { out: { write }, text: () => text };
}

describe("in a pipe", () => {
  test("a stage has a line now and then, and always its last", () => {
    const { out, text } = pipe();
    const renderer = createRenderer({ json: false, verbose: false, out });
    renderer.event(state(0, "running"), job);
    for (let i = 1; i <= 10; i++)
      renderer.event(progress(i, "steps", i, 10, { rate: 1, eta: 10 - i, detail: { loss: 1 / i } }), job);
    renderer.event(progress(11, "save", 1, 2), job);
    renderer.event(state(12, "done"), job);
    renderer.result(view);
    const lines = text().split("\n");
    expect(lines[0]).toBe("train steps: 1/10  10 %  1.0/s  9.0 s left  loss 1");
    expect(lines[1]).toMatch(/^. train steps +10\/10 +10 s {2}loss 0.1$/);
    expect(lines[2]).toBe("train save: 1/2  50 %");
    expect(lines[3]).toMatch(/^. train save +1\/2 +1.0 s$/);
    expect(lines[4]).toMatch(/^. train {2}done in 1:15, 2.5 GB at most {2}job_0{16}$/);
    expect(text()).not.toContain("\u001b");
  });

  test("children, retries, warnings and failures are told", () => {
    const { out, text } = pipe();
    const renderer = createRenderer({ json: false, verbose: false, out });
    renderer.event(state(0, "done", { reused: true }), child);
    renderer.event({ ...state(0, "running"), attempt: 2 } as JobEvent, job);
    renderer.event(
      { type: "log", ...at(1), level: "warn", event: "odd_clip", fields: { path: "x\u001b[2J.mp4" } },
      job,
    );
    renderer.event({ type: "log", ...at(1), level: "info", event: "quiet", fields: {} }, job);
    renderer.event(progress(2, "steps", 3, 10), job);
    renderer.event(state(3, "failed", { error: { code: "media_empty", message: "it is empty" } }), child);
    renderer.event(state(3, "failed", { error: { code: "internal", message: "no" } }), job);
    expect(text()).toMatch(/prepare +reused\n/);
    expect(text()).toContain("train goes on where it stopped (attempt 2)");
    expect(text()).toContain("train: odd clip  path=x?[2J.mp4");
    expect(text()).not.toContain("quiet");
    expect(text()).toMatch(/prepare +failed +it is empty/);
    expect(text()).toMatch(/. train steps +3\/10 +2.0 s/);
  });
});

test("a stage within a stage is told once, whatever comes back", () => {
  const { out, text } = pipe();
  const renderer = createRenderer({ json: false, verbose: false, out });
  for (let file = 1; file <= 20; file++) {
    renderer.event(progress(file, "frames", 10, 10), child);
    renderer.event(progress(file + 0.5, "files", file, 20), child);
  }
  renderer.event(state(22, "done"), child);
  expect(text().match(/frames +10\/10/g)).toHaveLength(1);
  expect(text().match(/files +20\/20/g)).toHaveLength(1);
  expect(text()).toMatch(/prepare +in all/);
  expect(text().split("\n").length).toBeLessThan(7);
});

test("JSON: one object a line, the result last", () => {
  const { out, text } = pipe();
  const renderer = createRenderer({ json: true, verbose: false, out });
  const event = progress(1, "steps", 1, 2);
  renderer.event(event, job);
  renderer.result(view);
  const lines = text()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string });
  expect(lines).toEqual([
    event,
    {
      type: "result",
      job: id,
      operation: "train",
      state: "done",
      reused: false,
      seconds: 75,
      peakBytes: 2.5e9,
      output: view.output,
    },
  ] as never);
});

test("on a terminal live lines never exceed its width and are gone at the end", async () => {
  for (const columns of [30, 60, 80, 132]) {
    const { out, text } = pipe();
    const renderer = createRenderer({ json: false, verbose: false, out: { ...out, isTTY: true, columns } });
    const now = Date.now() / 1000 - 1_700_000_000;
    renderer.event(state(now - 9, "running"), job);
    renderer.event(
      progress(now, "a stage with quite a long name", 412, 1000, {
        rate: 5.2,
        eta: 113,
        detail: { loss: 0.123456, psnr: 25.1 },
      }),
      job,
    );
    await Bun.sleep(150);
    const live = Bun.stripANSI(text()).split("\r").at(-1) ?? "";
    expect(Bun.stringWidth(live)).toBeLessThan(Math.max(columns, 46));
    expect(live).toContain("412/1000");
    if (columns >= 80) expect(live).toMatch(/[━#]+.*1:53 left {2}5.2\/s/);
    renderer.close();
    expect(text().endsWith("\r\u001b[J")).toBe(true);
  }
});

test("outputs are shown by their shape", () => {
  const lines = outputLines(view.output, styleOf({}, { LANG: "C" })).map((line) => line.trimEnd());
  expect(lines).toEqual([
    "  checkpoint  /data/model",
    "  steps       10",
    "  losses",
    "    first  1.235",
    "    last   0.1",
    "  clips",
    "    id  psnr",
    "    a   20.5",
    "    bc     9",
  ]);
  const sources = [{ path: "a.mp4" }, { path: "b.mp4", error: { code: "media_empty", message: "b.mp4 is empty" } }];
  expect(outputLines({ sources }, styleOf({}, { LANG: "C" })).map((line) => line.trimEnd())).toEqual([
    "  sources",
    "    path   error",
    "    a.mp4",
    "    b.mp4  media_empty: b.mp4 is empty",
  ]);
});

test("figures come with their units, and what is words already stays as it is", () => {
  const plan = { flops: 35441981266304, peakBytes: 246e6, seconds: 112, rates: { "memory 8 MiB GB/s": 44.41 } };
  expect(outputLines(plan, styleOf({}, { LANG: "C" })).map((line) => line.trim().replace(/ +/g, " "))).toEqual([
    "flops 35.4 TFLOP",
    "peak bytes 246 MB",
    "seconds 1:52",
    "rates",
    "memory 8 MiB GB/s 44.41",
  ]);
});

test("styles follow the terminal and the environment", () => {
  expect(styleOf({ isTTY: true }, { LANG: "C.UTF-8" })).toMatchObject({ colour: true, unicode: true });
  expect(styleOf({ isTTY: true }, { LANG: "C.UTF-8", NO_COLOR: "1" })).toMatchObject({ colour: false, unicode: true });
  expect(styleOf({ isTTY: false }, { LC_ALL: "C", LANG: "C.UTF-8" })).toMatchObject({ colour: false, unicode: false });
  expect(styleOf({ isTTY: true }, { LANG: "C.UTF-8", TERM: "dumb" })).toMatchObject({ colour: false, unicode: false });
  expect([0.04, 9.96, 59.7, 113, 3729].map(clock)).toEqual(["0.0 s", "10 s", "1:00", "1:53", "1:02:09"]);
  expect(plain("a\u001b[31mb\nc")).toBe("a?[31mb c");
});
