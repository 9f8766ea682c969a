import { describe, expect, test } from "bun:test";
import type { FrameBatch } from "../types.ts";
import { flowBetween, pyramid } from "./flow.ts";
import { measureMotion } from "./motion.ts";

const W = 128;
const H = 72;
const FPS = 8;
/** A pixel a frame in per cent of the width a second. */
const PIXEL = (100 * FPS) / W;

/** Smooth noise of a seed at any real place: three octaves of sines with random directions. */
function texture(seed: number): (x: number, y: number) => number {
  let state = seed * 2654435761;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const waves = Array.from({ length: 24 }, () => {
    const turn = random() * 2 * Math.PI;
    const frequency = 0.08 + random() * 0.5;
    return { fx: Math.cos(turn) * frequency, fy: Math.sin(turn) * frequency, phase: random() * 2 * Math.PI };
  });
  return (x, y) =>
    128 +
    (waves.reduce((sum, wave) => sum + Math.sin(wave.fx * x + wave.fy * y + wave.phase), 0) * 90) /
      Math.sqrt(waves.length);
}

const ground = texture(1);
const thing = texture(2);

interface Scene {
  /** Where the ground shown at x, y of frame t lies. */
  ground(x: number, y: number, t: number): [number, number];
  /** Top left of a 32 x 32 thing at frame t. */
  thing?(t: number): [number, number];
  noise?: number;
}

async function* film({ ground: place, thing: put, noise = 0 }: Scene, count = 12): AsyncGenerator<FrameBatch> {
  let state = 7;
  for (let t = 0; t < count; t++) {
    const data = new Uint8Array(W * H);
    const [left, top] = put?.(t) ?? [-1000, -1000];
    for (let y = 0, i = 0; y < H; y++)
      for (let x = 0; x < W; x++, i++) {
        const inside = x >= left && x < left + 32 && y >= top && y < top + 32;
        const [gx, gy] = place(x, y, t);
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        const value = (inside ? thing(x - left, y - top) : ground(gx, gy)) + (state / 2 ** 32 - 0.5) * 2 * noise;
        data[i] = Math.min(255, Math.max(0, value));
      }
    yield { data, count: 1, width: W, height: H, format: "gray8", times: [t / FPS] };
  }
}

const measure = (scene: Scene): ReturnType<typeof measureMotion> =>
  measureMotion(film(scene), { breathe: async () => undefined });
const fixed = (x: number, y: number): [number, number] => [x, y];

describe("flow", () => {
  test("a shift by a fraction of a pixel and one by eight are both found", async () => {
    for (const shift of [0.4, 2.5, 8]) {
      const planes = [];
      for await (const { data } of film({ ground: (x, y, t) => [x - shift * t, y + 0.5 * shift * t] }, 2))
        planes.push(pyramid({ width: W, height: H, data: Float32Array.from(data) }));
      const flow = flowBetween(planes[0]!, planes[1]!);
      const errors = [...flow.u]
        .map((u, i) => Math.hypot(u - shift, (flow.v[i] as number) + 0.5 * shift))
        .sort((a, b) => a - b);
      expect(errors[Math.floor(errors.length * 0.8)]).toBeLessThan(0.15);
    }
  });
});

describe("motion", () => {
  test("static < pan < moving thing, in what moves by itself", async () => {
    const still = await measure({ ground: fixed, noise: 2 });
    const pan = await measure({ ground: (x, y, t) => [x + 3 * t, y], noise: 2 });
    const moving = await measure({ ground: fixed, thing: (t) => [10 + 4 * t, 20], noise: 2 });
    expect(still["total"]).toBeLessThan(0.2 * PIXEL);
    expect(pan["camera"]).toBeGreaterThan(2.9 * PIXEL);
    expect(pan["camera"]).toBeLessThan(3.1 * PIXEL);
    expect(still["total"] as number).toBeLessThan(pan["total"] as number);
    expect(pan["foregroundShare"]).toBeLessThan(0.05);
    expect(pan["foreground"] as number).toBeLessThan(moving["foreground"] as number);
    expect(moving["camera"]).toBeLessThan(0.3 * PIXEL);
    expect(moving["foreground"]).toBeGreaterThan(2 * PIXEL);
  });

  test("a thing is told from a pan, and its own motion is measured against it", async () => {
    const both = await measure({ ground: (x, y, t) => [x + 2 * t, y], thing: (t) => [20 + 3 * t, 20] });
    // The ground goes 2 pixels to the left, the thing 3 to the right: 5 apart.
    expect(both["camera"]).toBeCloseTo(2 * PIXEL, -0.5);
    expect(both["foreground"]).toBeGreaterThan(3.5 * PIXEL);
    expect(both["foreground"]).toBeLessThan(5.5 * PIXEL);
    // 32 x 32 of 128 x 72 is 11 %; patches that overlap its edge count too.
    expect(both["foregroundShare"]).toBeGreaterThan(0.05);
    expect(both["foregroundShare"]).toBeLessThan(0.25);
  });

  test("zoom and roll are the camera's", async () => {
    const around = (x: number, y: number, scale: number, turn: number): [number, number] => {
      const [dx, dy] = [x - W / 2, y - H / 2];
      return [
        W / 2 + scale * (dx * Math.cos(turn) - dy * Math.sin(turn)),
        H / 2 + scale * (dx * Math.sin(turn) + dy * Math.cos(turn)),
      ];
    };
    const zoom = await measure({ ground: (x, y, t) => around(x, y, 0.97 ** t, 0) });
    const roll = await measure({ ground: (x, y, t) => around(x, y, 1, 0.02 * t) });
    for (const each of [zoom, roll]) {
      expect(each["camera"]).toBeGreaterThan(0.4 * PIXEL);
      expect(each["foregroundShare"]).toBeLessThan(0.1);
    }
  });

  test("a change of light is no motion, and a plain wall says nothing", async () => {
    let t = 0;
    async function* lit(): AsyncGenerator<FrameBatch> {
      for await (const batch of film({ ground: fixed })) {
        t++;
        yield { ...batch, data: batch.data.map((value) => value * 0.8 + t) };
      }
    }
    const light = await measureMotion(lit(), { breathe: async () => undefined });
    expect(light["total"]).toBeLessThan(0.2 * PIXEL);
    async function* wall(): AsyncGenerator<FrameBatch> {
      for (let i = 0; i < 4; i++)
        yield {
          data: new Uint8Array(W * H).fill(90),
          count: 1,
          width: W,
          height: H,
          format: "gray8",
          times: [i / FPS],
        };
    }
    expect(await measureMotion(wall(), { breathe: async () => undefined })).toMatchObject({
      total: 0,
      camera: 0,
      foreground: 0,
    });
  });

  test("two things that part ways are more diverse than one", async () => {
    const one = await measure({ ground: fixed, thing: (t) => [10 + 4 * t, 20] });
    const turning = await measure({ ground: fixed, thing: (t) => [50 + 20 * Math.cos(t), 20 + 15 * Math.sin(t)] });
    expect(turning["diversity"] as number).toBeGreaterThan((one["diversity"] as number) + 0.2);
  });
});
