import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  cat,
  Generator,
  mseLoss,
  noGrad,
  normal_,
  ones,
  rand,
  randn,
  scope,
  setThreads,
  type Tensor,
  tensor,
  withMatmulDtype,
  zeros,
} from "../../native/index.ts";
import { fresh, load, readParams, save } from "./checkpoint.ts";
import { foldMask } from "./conditions.ts";
import { WaverDenoiser } from "./denoiser.ts";
import { type WaverInput, WaverTransformer } from "./model.ts";
import { countParameters, WAVER_12B, WaverParams } from "./params.ts";
import { gridWindows, layerKinds, windowIds } from "./windows.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "waver-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const tiny = WaverParams.parse({
  num_dual: 1,
  num_single: 3,
  num_heads: 2,
  head_dim: 12,
  in_channels: 12,
  out_channels: 4,
  patch_size: [1, 2, 2],
  t5_dim: 6,
  qwen_dim: null,
  pos_sizes: [4, 6, 6],
});
const windowed = WaverParams.parse({ ...tiny, window: { kind: "count" } });

/** Fresh gates are zero and would hide everything: weights of some size instead. */
function network(params: WaverParams, seed = 1): WaverTransformer {
  const made = fresh(params, seed);
  using generator = new Generator(seed);
  for (const weight of made.parameters()) normal_(weight, 0, 0.2, generator);
  return made;
}

function input(seed: number, [T, H, W]: readonly [number, number, number], B = 1, real = 3): WaverInput {
  using generator = new Generator(seed);
  return {
    latents: randn([B, 4, T, H, W], { generator }),
    known: { latents: randn([B, 4, T, H, W], { generator }), mask: zeros([B, 4, T, H, W]) },
    t: rand([B], { generator }),
    t5: { states: randn([B, 3, 6], { generator }), mask: tensor([[0, 1, 2].map((i) => i < real)]).expand([B, -1]) },
    qwen: null,
  };
}
const furthest = (a: Tensor, b: Tensor): number => a.sub(b).abs().max().item();

describe("the network", () => {
  test("is counted from its declaration", () => {
    using declared = new WaverTransformer(WAVER_12B);
    expect(declared.numParameters()).toBe(11_179_112_512); // waver.md
    expect(countParameters(WAVER_12B).total).toBe(11_179_112_512);
    using small = new WaverTransformer(tiny);
    expect(small.numParameters()).toBe(countParameters(tiny).total);
  });

  test("padded text changes nothing, whole or in windows", () => {
    for (const params of [tiny, windowed]) {
      using net = network(params);
      scope(() =>
        noGrad(() => {
          const padded = input(2, [2, 4, 6], 1, 2);
          const cut = {
            ...padded,
            t5: { states: padded.t5!.states.narrow(1, 0, 2), mask: padded.t5!.mask.narrow(1, 0, 2) },
          };
          expect(furthest(net.forward(padded), net.forward(cut))).toBeLessThan(1e-5);
          const noisy = {
            ...padded,
            t5: { ...padded.t5!, states: padded.t5!.states.add(padded.t5!.mask.logicalNot().unsqueeze(-1).mul(50)) },
          };
          expect(furthest(net.forward(padded), net.forward(noisy))).toBeLessThan(1e-5);
        }),
      );
    }
  });

  test("rows of a batch do not see each other", () => {
    using net = network(windowed);
    scope(() =>
      noGrad(() => {
        const [a, b] = [input(3, [2, 4, 6]), input(4, [2, 4, 6], 1, 2)];
        const both: WaverInput = {
          latents: join2(a.latents, b.latents),
          t: join2(a.t, b.t),
          qwen: null,
          known: { latents: join2(a.known.latents, b.known.latents), mask: join2(a.known.mask, b.known.mask) },
          t5: { states: join2(a.t5!.states, b.t5!.states), mask: join2(a.t5!.mask, b.t5!.mask) },
        };
        const out = net.forward(both);
        expect(furthest(out.narrow(0, 0, 1), net.forward(a))).toBeLessThan(1e-5);
        expect(furthest(out.narrow(0, 1, 1), net.forward(b))).toBeLessThan(1e-5);
      }),
    );
  });

  test("trains in bfloat16 products near float32", () => {
    using net = network(tiny);
    net.requiresGrad_();
    const gradient = (dtype: "bfloat16" | null): Float32Array =>
      scope(() => {
        const given = input(5, [2, 4, 4], 2);
        const loss = withMatmulDtype(dtype && { dtype, result: "compute" }, () =>
          mseLoss(net.forward(given).float(), given.latents),
        );
        loss.backward();
        const grad = net.dual[0]!.video.qkv.weight.grad!.toFloat32Array();
        net.zeroGrad();
        return grad;
      });
    const [exact, rough] = [gradient(null), gradient("bfloat16")];
    const norm = (x: Float32Array): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
    expect(norm(exact.map((v, i) => v - rough[i]!)) / norm(exact)).toBeLessThan(0.1);
  });

  test("says which size does not fit", () => {
    using net = network(tiny);
    scope(() => {
      expect(() => net.forward(input(1, [2, 3, 4]))).toThrow("do not divide into patches of [1,2,2]");
      expect(() => net.forward(input(1, [5, 4, 4]))).toThrow(
        "give 5 patches on axis T; this network has positions for 4",
      );
      expect(() => net.forward({ ...input(1, [2, 4, 4]), qwen: input(1, [2, 4, 4]).t5 })).toThrow(
        "takes no qwen features",
      );
    });
  });
});

describe("windows", () => {
  test("full layers at both ends, spatial first between", () => {
    expect(layerKinds({ ...WAVER_12B, window: windowed.window }).filter((kind) => kind === "full")).toHaveLength(16);
    expect(layerKinds(windowed)).toEqual(["full", "spatial", "temporal", "full"]);
  });

  test("hold every token once", () => {
    for (const kind of ["spatial", "temporal"] as const) {
      const groups = gridWindows({ t: 3, h: 5, w: 7 }, windowed.window!, kind);
      expect([...groups.flatMap((group) => [...group.tokens])].sort((a, b) => a - b)).toEqual(
        Array.from({ length: 105 }, (_, i) => i),
      );
    }
    expect(new Set(windowIds({ t: 3, h: 5, w: 7 }, windowed.window!, "spatial")).size).toBe(4);
  });
});

describe("conditions", () => {
  test("the first frame fills its latent frame, later ones four channels", () => {
    const mask = scope(() =>
      foldMask(tensor([[1, 0, 0, 1, 0, 0, 0, 0, 1]]), 1, 1)
        .reshape([4, 3])
        .toNumbers(),
    );
    expect(mask).toEqual([1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1]);
    scope(() => expect(() => foldMask(ones([1, 8]), 1, 1)).toThrow("8 frames; a video has 1 + 4k"));
  });
});

describe("a folder", () => {
  test("gives back what was saved, and names what is wrong", async () => {
    const folder = join(scratch, "saved");
    using net = network(windowed);
    await save(net, folder);
    expect(await readParams(folder)).toEqual(windowed);
    using again = await load(folder);
    scope(() =>
      noGrad(() =>
        expect(furthest(net.forward(input(7, [2, 4, 4])), again.forward(input(7, [2, 4, 4])))).toBeLessThan(1e-5),
      ),
    ); // products may take another path over mapped memory
    await using denoiser = await WaverDenoiser.load(folder, {});
    expect(denoiser.convention.predicts).toBe("data-noise");
    expect(denoiser.taps).toEqual(["dual.0.video"]);
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, in_channels: 13 }));
    await expect(load(folder)).rejects.toMatchObject({
      code: "checkpoint_invalid",
      message: expect.stringMatching(/in_channels is 2 x out_channels \+ 4/),
    });
  });
});

const join2 = (a: Tensor, b: Tensor): Tensor => cat([a, b]);
