import { expect, test } from "bun:test";
import { allClose, Generator, randn, scope, setThreads, type Tensor } from "../../native/index.ts";
import cfgPlugin from "../guide-cfg/index.ts";
import { type Guide, type GuideCall, hooks } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { apg, Momentum } from "./apg.ts";
import apgPlugin from "./index.ts";

setThreads(1);
const noise = (seed: number, shape = [1, 16, 3, 8, 8]): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const guideOf = async (id: string, options: object = {}): Promise<Guide> => {
  const { provider } = [...cfgPlugin.provides, ...apgPlugin.provides].find(
    (each) => each.provider.id === id,
  ) as (typeof apgPlugin.provides)[number];
  return (await provider.run(
    {},
    { options: provider.options.parse(options), state: undefined, ctx: undefined as never },
  )) as Guide;
};
const call = (cond: Tensor, uncond: Tensor, seen: string[] = []): GuideCall => ({
  predict(branch) {
    seen.push(branch);
    return branch === "positive" ? cond : uncond;
  },
  latents: cond,
  t: 0.5,
  step: 0,
  numSteps: 4,
});

test.each([cfgPlugin, apgPlugin])("the plugin keeps the contract", async (plugin) => {
  expect(failures(await checkPlugin(plugin))).toEqual([]);
  for (const { hook } of plugin.provides) expect(hook in hooks).toBe(true);
});

test("without clip and with eta 1, projected guidance is plain guidance", async () => {
  const [plain, projected] = [
    await guideOf("cfg", { scale: 6 }),
    await guideOf("video-apg", { scale: 6, eta: 1, threshold: 0 }),
  ];
  scope(() => {
    const [cond, uncond] = [noise(1), noise(2)];
    expect(allClose(projected(call(cond, uncond)), plain(call(cond, uncond)), { atol: 1e-4 })).toBe(true);
  });
});

test("eta 0 leaves nothing along the prompted prediction, frame by frame", () => {
  scope(() => {
    const [cond, uncond] = [noise(1), noise(2)];
    const { prediction } = apg(cond, uncond, cond.sub(uncond), {
      scale: 8,
      eta: 0,
      threshold: 0,
      axes: [1, 3, 4],
      form: "paper",
    });
    const along = prediction.sub(cond).mul(cond).sum([1, 3, 4]);
    expect(along.abs().max().item()).toBeLessThan(1e-2); // of sums over a thousand products near 1
  });
});

test("the threshold of 27 belongs to 720p and follows the size of a latent frame", async () => {
  const [scaled, fixed] = [
    await guideOf("video-apg", {}),
    await guideOf("video-apg", { threshold: 27 * Math.sqrt((16 * 8 * 8) / (16 * 90 * 160)) }),
  ];
  scope(() => {
    const [cond, uncond] = [noise(1), noise(2)];
    expect(allClose(scaled(call(cond, uncond)), fixed(call(cond, uncond)), { rtol: 0, atol: 0 })).toBe(true);
  });
});

test("guidance that is off costs one pass", async () => {
  for (const [id, options] of [
    ["none", {}],
    ["cfg", { scale: 1 }],
    ["cfg", { scale: 5, from: 0.5 }],
    ["video-apg", { scale: 1 }],
  ] as const) {
    const guide = await guideOf(id, options);
    scope(() => {
      const seen: string[] = [];
      const [cond, uncond] = [noise(1), noise(2)];
      expect(guide(call(cond, uncond, seen))).toBe(cond);
      expect(seen).toEqual(["positive"]);
    });
  }
});

test("momentum sums over steps and starts anew with a sample", () => {
  scope(() => {
    const difference = noise(1);
    const running = new Momentum(-0.5);
    running.update(difference);
    expect(allClose(running.update(difference), difference.mul(0.5), { atol: 1e-6 })).toBe(true);
    const other = new Momentum(-0.5);
    other.restore(running.save());
    expect(allClose(other.update(difference), running.update(difference), { atol: 0 })).toBe(true);
    running.reset();
    expect(running.save()).toEqual({});
    expect(running.update(difference)).toBe(difference);
  });
});
