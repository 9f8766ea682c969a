import { describe, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  arange,
  Generator,
  linspace,
  noGrad,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  stack,
  type Tensor,
  tensor,
  zeros,
} from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import type { ClipFrames, FrameBatch } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { loadRaft, weightBytes } from "./checkpoint.ts";
import plugin from "./index.ts";
import { Correlation } from "./layers.ts";
import { Raft } from "./model.ts";
import { cameraOf, measureFlow } from "./motion.ts";
import type { RaftShape } from "./params.ts";

setThreads(1);

const large: RaftShape = {
  features: { layers: [8, 8, 12, 16, 24], block: "residual", norm: "instance" },
  context: { layers: [8, 8, 12, 16, 30], block: "residual", norm: "batch" },
  levels: 4,
  radius: 2,
  motion: { corr: [12, 10], flow: [8, 6], out: 14 },
  hidden: 18,
  kernels: [
    [1, 5],
    [5, 1],
  ],
  head: 10,
  mask: 16,
};
const small: RaftShape = {
  ...large,
  features: { layers: [8, 8, 12, 16, 24], block: "bottleneck", norm: "instance" },
  context: { layers: [8, 8, 12, 16, 30], block: "bottleneck", norm: "none" },
  radius: 1,
  motion: { corr: [12], flow: [8, 6], out: 14 },
  kernels: [[3, 3]],
  mask: undefined,
};
/** torchvision's raft_small and raft_large, and how many numbers their weights hold (torchvision's own count). */
const published: [string, RaftShape, number][] = [
  [
    "raft_small",
    {
      features: { layers: [32, 32, 64, 96, 128], block: "bottleneck", norm: "instance" },
      context: { layers: [32, 32, 64, 96, 160], block: "bottleneck", norm: "none" },
      levels: 4,
      radius: 3,
      motion: { corr: [96], flow: [64, 32], out: 82 },
      hidden: 96,
      kernels: [[3, 3]],
      head: 128,
      mask: undefined,
    },
    990162,
  ],
  [
    "raft_large",
    {
      features: { layers: [64, 64, 96, 128, 256], block: "residual", norm: "instance" },
      context: { layers: [64, 64, 96, 128, 256], block: "residual", norm: "batch" },
      levels: 4,
      radius: 4,
      motion: { corr: [256, 192], flow: [128, 64], out: 128 },
      hidden: 128,
      kernels: [
        [1, 5],
        [5, 1],
      ],
      head: 256,
      mask: 256,
    },
    5257536,
  ],
];
const made = (shape: RaftShape): Raft => {
  using generator = new Generator(3);
  return new Raft(shape).init(generator);
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
function fileOf(model: Raft): string {
  const path = join(mkdtempSync(join(tmpdir(), "raft-")), "raft.safetensors");
  using counter = tensor([7], { dtype: "int64" });
  const counters = [...model.stateDict().keys()]
    .filter((key) => key.endsWith("running_mean"))
    .map((key): [string, Tensor] => [key.replace("running_mean", "num_batches_tracked"), counter]);
  saveSafetensors(path, new Map([...model.stateDict(), ...counters]));
  return path;
}

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

test.each(published)("%s has as many weights as torchvision's", (_, shape, count) => {
  expect(new Raft(shape).numParameters()).toBe(count);
});

describe.each([
  ["small", small],
  ["large", large],
])("%s", (_, shape) => {
  test("is read off its weights", () => {
    using model = made(shape);
    const path = fileOf(model);
    using again = loadRaft(path, "cpu");
    expect(weightBytes(path)).toBe(model.bytes("float32"));
    scope(() => {
      const [a, b] = [noise([1, 3, 128, 136]), noise([1, 3, 128, 136], 2)];
      const [want, got] = noGrad(() => [model, again].map((each) => each.forward(a, b, { numUpdates: 2 }))) as [
        Tensor,
        Tensor,
      ];
      expect(got.shape).toEqual([1, 2, 128, 136]);
      expect(allClose(got, want, { rtol: 0, atol: 0 })).toBe(true);
    });
  });

  test("fewer updates are the beginning of more; a batch is its pairs alone", () => {
    using model = made(shape);
    scope(() => {
      const [a, b] = [noise([2, 3, 128, 128]), noise([2, 3, 128, 128], 2)];
      const flows = new Map<string, number[]>();
      const tap = (name: string, value: Tensor): void => void flows.set(name, value.toNumbers());
      const three = noGrad(() => model.forward(a, b, { numUpdates: 3, everyFlow: true, tap }));
      expect([...flows.keys()]).toEqual(["feature_encoder", "context_encoder", "flow.0", "flow.1", "flow.2"]);
      expect(flows.get("flow.2")).toEqual(three.toNumbers());
      const one = noGrad(() => model.forward(a, b, { numUpdates: 1 }));
      expect(one.toNumbers()).toEqual(flows.get("flow.0") as number[]);
      const alone = noGrad(() => model.forward(a.narrow(0, 1, 1), b.narrow(0, 1, 1), { numUpdates: 3 }));
      expect(allClose(three.narrow(0, 1, 1), alone, { atol: 1e-4 })).toBe(true);
    });
  });

  test("any size is padded by its edges, evenly, and the flow cut back", () => {
    using model = made(shape);
    scope(() => {
      const [a, b] = [noise([1, 3, 130, 141]), noise([1, 3, 130, 141], 2)];
      const flow = noGrad(() => model.between(a, b, { numUpdates: 2 }));
      expect(flow.shape).toEqual([1, 2, 130, 141]);
      // 130 -> 136: three above; 141 -> 144: one to the left
      const wide = (image: Tensor): Tensor => {
        const row = (y: number): Tensor => image.narrow(2, Math.min(129, Math.max(0, y - 3)), 1);
        const tall = stack(
          Array.from({ length: 136 }, (_, y) => row(y).squeeze(2)),
          2,
        );
        const column = (x: number): Tensor => tall.narrow(3, Math.min(140, Math.max(0, x - 1)), 1);
        return stack(
          Array.from({ length: 144 }, (_, x) => column(x).squeeze(3)),
          3,
        );
      };
      const want = noGrad(() => model.forward(wide(a), wide(b), { numUpdates: 2 }))
        .narrow(2, 3, 130)
        .narrow(3, 1, 141);
      expect(allClose(flow, want, { atol: 1e-5 })).toBe(true);
      expect(
        noGrad(() => model.between(noise([1, 3, 40, 50]), noise([1, 3, 40, 50]), { numUpdates: 1 })).shape,
      ).toEqual([1, 2, 40, 50]);
    });
  });

  test("what it cannot take is one sentence", () => {
    using model = made(shape);
    scope(() => {
      const image = zeros([1, 3, 128, 128]);
      expect(() => model.forward(image, zeros([1, 3, 128, 136]))).toThrow(/images of one size/);
      expect(() => model.forward(zeros([1, 3, 120, 128]), zeros([1, 3, 120, 128]))).toThrow(/at least 128/);
      expect(() => model.forward(image, image, { numUpdates: 0 })).toThrow(/at least one update/);
    });
  });
});

test("weights of another network are refused", () => {
  const path = join(mkdtempSync(join(tmpdir(), "raft-")), "x.safetensors");
  scope(() => saveSafetensors(path, { "conv.weight": zeros([1]) }));
  expect(() => loadRaft(path, "cpu")).toThrow(/is no RAFT: it has no/);
});

test("the correlation of a place with its neighbours, x first", () => {
  scope(() => {
    const n = 16;
    const a = zeros([1, 1, n, n]);
    a.select(3, 5).select(2, 3).fill_(1); // one place: x 5, y 3
    const b = arange(0, n * n, 1, { dtype: "float32" }).view([1, 1, n, n]);
    const correlation = new Correlation(a, b, { levels: 2, radius: 1 });
    const at = zeros([1, 2, n, n]);
    at.select(1, 0).fill_(7); // look around x 7, y 4
    at.select(1, 1).fill_(4);
    const seen = correlation.at(at).select(3, 5).select(2, 3).squeeze(0).toNumbers();
    const place = (x: number, y: number): number => y * n + x;
    const around = [-1, 0, 1].flatMap((dx) => [-1, 0, 1].map((dy) => place(7 + dx, 4 + dy)));
    for (const [i, want] of around.entries()) expect(seen[i]).toBeCloseTo(want, 3);
    // the second level has means of 2 x 2 places: its place 3.5, 2 is the mean of what lies around x 7.5, y 4.5
    expect(seen[9 + 4]).toBeCloseTo(place(7.5, 4.5), 3);
  });
});

describe("motion", () => {
  const [h, w] = [20, 30];
  /** Flow of a pan, zoom and roll at every place, with a thing of its own motion in a corner. */
  const field = (thing: readonly [number, number] | null): { flow: Tensor; camera: Tensor } => {
    const how = { dtype: "float64" } as const;
    const x = linspace(-1, 1, w, how).view([1, w]).expand([h, w]);
    const y = linspace(-1, 1, h, how).view([h, 1]).expand([h, w]);
    const camera = stack([x.mul(0.7).add(y.mul(-0.3)).add(3), y.mul(0.7).add(x.mul(0.3)).sub(1)], -1);
    const flow = camera.clone();
    if (thing !== null) {
      const corner = flow.narrow(0, 0, 8).narrow(1, 0, 10);
      corner.select(2, 0).add_(thing[0]);
      corner.select(2, 1).add_(thing[1]);
    }
    return { flow: flow.view([1, h * w, 2]), camera: camera.view([1, h * w, 2]) };
  };

  test("the camera's motion is found beside a thing that moves by itself", () => {
    scope(() => {
      const alone = field(null);
      expect(allClose(cameraOf(alone.flow, h, w), alone.camera, { atol: 1e-9 })).toBe(true);
      const both = field([9, -4]);
      // 13 % of the places pull at the model; what is left of their pull is less than the noise of flow
      expect(cameraOf(both.flow, h, w).sub(both.camera).abs().max().item()).toBeLessThan(0.15);
    });
  });

  /** A network that "sees" a fixed flow. */
  const seeing = (dx: number, thing: number): Raft =>
    ({
      between: (a: Tensor) => {
        const flow = zeros([a.size(0), 2, a.size(2), a.size(3)]);
        scope(() => {
          flow.select(1, 0).fill_(dx);
          flow.select(1, 0).narrow(1, 0, 48).narrow(2, 0, 64).add_(thing);
        });
        return flow;
      },
    }) as unknown as Raft;
  async function* film(batches: readonly number[]): AsyncGenerator<FrameBatch> {
    let t = 0;
    for (const count of batches) {
      const times = Array.from({ length: count }, () => t++ / 8);
      yield { data: new Uint8Array(count * 256 * 144 * 3), count, width: 256, height: 144, format: "rgb24", times };
    }
  }
  const ctx = { device: "cpu", breathe: async () => undefined };

  test("is in per cent of the width a second, the same however frames are batched", async () => {
    for (const batches of [[5], [1, 4], [2, 1, 2], [1, 1, 1, 1, 1]]) {
      const scores = await measureFlow(seeing(2, 8), film(batches), { numUpdates: 1 }, ctx);
      const pixel = (100 * 8) / 256;
      expect(scores["camera"]).toBeCloseTo(2 * pixel, 1);
      expect(scores["foreground"]).toBeCloseTo(8 * pixel, 1);
      expect(scores["background"]).toBeLessThan(0.1 * pixel);
      expect(scores["foregroundShare"]).toBeCloseTo((48 * 64) / (144 * 256), 2);
      expect(scores["diversity"]).toBeCloseTo(0, 5);
    }
  });

  test("nothing moves in one frame, and no frame cannot be scored", async () => {
    expect(await measureFlow(seeing(2, 8), film([1]), { numUpdates: 1 }, ctx)).toEqual({
      total: 0,
      camera: 0,
      foreground: 0,
      background: 0,
      foregroundShare: 0,
      diversity: 0,
    });
    await expect(measureFlow(seeing(0, 0), film([]), { numUpdates: 1 }, ctx)).rejects.toThrow(/without frames/);
  });

  test("the provider scores with the network, and refuses without weights", async () => {
    await using bare = await testContext({ plugins: ["raft"] });
    await expect(bare.use("score", "raft")).rejects.toThrow("no weights of RAFT are configured");
    using model = made(small);
    await using ctx = await testContext({ plugins: ["raft"], config: { raft: { path: fileOf(model) } } });
    const score = await ctx.use("score", "raft", { numUpdates: 2 });
    const id = `sha256:${"0".repeat(64)}` as ClipFrames["clip"]["id"];
    const source = {
      id,
      path: "x",
      tag: "x",
      width: 256,
      height: 144,
      fps: 8,
      numFrames: 3,
      duration: 1,
      bitrate: 0,
      codec: "x",
    };
    const scores = await score({ source, clip: { id, source: id, start: 0, end: 1 }, frames: film([2, 1]) });
    expect(Object.keys(scores).sort()).toEqual([
      "background",
      "camera",
      "diversity",
      "foreground",
      "foregroundShare",
      "total",
    ]);
    for (const value of Object.values(scores)) expect(Number.isFinite(value)).toBe(true);
  });
});
