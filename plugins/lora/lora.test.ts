import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  Conv3d,
  Generator,
  keep,
  Linear,
  Module,
  noGrad,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { originalLayer } from "../wan/checkpoint.ts";
import { LoraFile } from "./file.ts";
import lora from "./index.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "lora-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A corner of a network under the Wan DiT's names. */
class Corner extends Module {
  readonly patch_embedding = new Conv3d(3, 6, [1, 2, 2], { stride: [1, 2, 2] });
  readonly blocks = [{ attn1: { to_q: new Linear(6, 4), to_out: [new Linear(4, 6)] } }];

  /** [B 3 T h w] -> [B S 6] */
  forward(x: Tensor): Tensor {
    const { to_q, to_out } = (this.blocks[0] as (typeof this.blocks)[0]).attn1;
    const tokens = this.patch_embedding.forward(x).flatten(2).transpose(1, 2);
    return tokens.add((to_out[0] as Linear).forward(to_q.forward(tokens).tanh()));
  }
}
const network = (): Corner => {
  using generator = new Generator(1);
  return new Corner().init(generator);
};
const random = (shape: number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const LAYERS = { "blocks.0.attn1.to_q": [6, 4], "blocks.0.attn1.to_out.0": [4, 6] } as const;
const RANK = 2;

let written = 0;
/** A file whose keys `spell` writes; the tensors depend on the layer and the seed alone. */
function file(
  spell: (layer: keyof typeof LAYERS) => { down: string; up: string; alpha?: string },
  more: { seed?: number; alpha?: number; metadata?: Record<string, string>; extra?: Record<string, Tensor> } = {},
): string {
  const path = join(scratch, `${written++}.safetensors`);
  const { seed = 10, alpha = 3, metadata = {}, extra = {} } = more;
  scope(() => {
    const tensors: Record<string, Tensor> = { ...extra };
    for (const [i, [layer, [from, to]]] of Object.entries(LAYERS).entries()) {
      const keys = spell(layer as keyof typeof LAYERS);
      tensors[keys.down] = random([RANK, from], seed + i);
      tensors[keys.up] = random([to, RANK], seed + 100 + i);
      if (keys.alpha !== undefined) tensors[keys.alpha] = tensor(alpha);
    }
    saveSafetensors(path, tensors, metadata);
  });
  return path;
}
const original = (layer: string): string => originalLayer(layer);
const peft = (layer: string) => ({
  down: `transformer.${layer}.lora_A.weight`,
  up: `transformer.${layer}.lora_B.weight`,
});
const peftMetadata = (more: object = {}) => ({
  lora_adapter_metadata: JSON.stringify({ "transformer.r": RANK, "transformer.lora_alpha": 3, ...more }),
});

const base = network();
const input = keep(random([1, 3, 2, 4, 4], 5));
afterAll(() => {
  base.dispose();
  input.dispose();
});
const target = { module: base, aliases: (layer: string) => [originalLayer(layer)] };
const run = (module: Corner = base): Tensor => noGrad(() => scope(() => module.forward(input)));
const withFile = (path: string, weight = 1): Tensor => {
  using opened = LoraFile.open(path, "cpu");
  return opened.on(target).during(weight, run);
};

test("the plugin keeps the contract", async () => {
  expect(failures(await checkPlugin(lora))).toEqual([]);
});

test("one LoRA in every spelling gives one result, and the network is as it was afterwards", () => {
  using plain = run();
  const spelled = {
    diffusers: file(peft, { metadata: peftMetadata() }),
    "the authors' names": file((layer) => ({
      down: `diffusion_model.${original(layer)}.lora_A.weight`,
      up: `diffusion_model.${original(layer)}.lora_B.weight`,
      alpha: `diffusion_model.${original(layer)}.alpha`,
    })),
    kohya: file((layer) => {
      const name = `lora_unet_${original(layer).replaceAll(".", "_")}`;
      return { down: `${name}.lora_down.weight`, up: `${name}.lora_up.weight`, alpha: `${name}.alpha` };
    }),
    "no prefix": file((layer) => ({ down: `${layer}.lora_A.default.weight`, up: `${layer}.lora_B.default.weight` }), {
      metadata: peftMetadata(),
    }),
  };
  using first = withFile(spelled.diffusers);
  expect(allClose(first, plain, { atol: 0.1 })).toBe(false);
  for (const path of Object.values(spelled)) {
    using same = withFile(path);
    expect(allClose(same, first, { rtol: 0, atol: 0 })).toBe(true);
  }
  using after = run();
  expect(allClose(after, plain, { rtol: 0, atol: 0 })).toBe(true);
});

test("beside the weights or made part of them is the same sum", () => {
  const path = file(peft, { metadata: peftMetadata() });
  using beside = withFile(path, 0.6);
  using merged = network();
  using opened = LoraFile.open(path, "cpu");
  const adapter = opened.on(target);
  scope(() =>
    noGrad(() => {
      for (const [name, weight] of merged.namedParameters()) {
        const fused = adapter.fused(name, weight, 0.6);
        if (fused !== undefined) weight.copy_(fused);
      }
    }),
  );
  using within = run(merged);
  expect(allClose(beside, within, { atol: 1e-5 })).toBe(true);
});

test("several add up, in any order, and one that throws is off again", () => {
  const [a, b] = [file(peft, { metadata: peftMetadata() }), file(peft, { seed: 50 })];
  using first = LoraFile.open(a, "cpu");
  using second = LoraFile.open(b, "cpu");
  const [onA, onB] = [first.on(target), second.on(target)];
  using ab = onA.during(1, () => onB.during(0.5, run));
  using ba = onB.during(0.5, () => onA.during(1, run));
  expect(allClose(ab, ba, { atol: 1e-5 })).toBe(true);
  using alone = onA.during(1, run);
  expect(allClose(ab, alone, { atol: 0.05 })).toBe(false);
  using plain = run();
  expect(() =>
    onA.during(1, () => {
      throw new Error("stopped");
    }),
  ).toThrow("stopped");
  using after = run();
  expect(allClose(after, plain, { rtol: 0, atol: 0 })).toBe(true);
});

test("strength: alpha / r, the root of r for rsLoRA, a pattern's own alpha, and r where nothing is said", () => {
  const result = (metadata: Record<string, string>): Tensor => withFile(file(peft, { metadata }));
  const spread = (a: Tensor, b: Tensor): number => scope(() => a.sub(b).abs().max().item() as number);
  using half = withFile(file(peft, { metadata: peftMetadata() }), RANK / 3);
  using silent = result({});
  expect(spread(half, silent)).toBeLessThan(1e-5); // 2/3 of alpha 3 over rank 2
  using root = result(peftMetadata({ "transformer.use_rslora": true }));
  using weighted = withFile(file(peft, { metadata: peftMetadata() }), RANK / Math.sqrt(RANK));
  expect(spread(root, weighted)).toBeLessThan(1e-5);
  using pattern = result(peftMetadata({ "transformer.alpha_pattern": { "attn1.to_q": 2, "to_out.0": 2 } }));
  expect(spread(pattern, silent)).toBeLessThan(1e-5);
});

test("PEFT's own folder says its alpha beside the weights", () => {
  const folder = join(scratch, "peft");
  mkdirSync(folder);
  scope(() =>
    saveSafetensors(join(folder, "adapter_model.safetensors"), {
      "base_model.model.blocks.0.attn1.to_q.lora_A.weight": random([RANK, 6], 10),
      "base_model.model.blocks.0.attn1.to_q.lora_B.weight": random([4, RANK], 110),
    }),
  );
  using silent = withFile(folder, 2);
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ r: RANK, lora_alpha: 2 * RANK }));
  using said = withFile(folder);
  expect(allClose(said, silent, { atol: 1e-5 })).toBe(true);
});

test("a convolution and a bias take part as well", () => {
  const path = join(scratch, "conv.safetensors");
  const [down, up, bias] = scope(() => [
    random([RANK, 3, 1, 2, 2], 1),
    random([6, RANK, 1, 1, 1], 2),
    random([6], 3),
  ]) as [Tensor, Tensor, Tensor];
  using _down = down;
  using _up = up;
  using _bias = bias;
  const name = "diffusion_model.patch_embedding";
  scope(() =>
    saveSafetensors(path, {
      [`${name}.lora_down.weight`]: down,
      [`${name}.lora_up.weight`]: up,
      [`${name}.alpha`]: tensor(1),
      [`${name}.diff_b`]: bias,
    }),
  );
  using beside = withFile(path, 0.5);
  using merged = network();
  scope(() =>
    noGrad(() => {
      const { weight, bias: own } = merged.patch_embedding;
      weight.add_(
        up
          .flatten(1)
          .matmul(down.flatten(1))
          .mul(0.5 / RANK)
          .view(weight.shape),
      );
      own?.add_(bias.mul(0.5));
    }),
  );
  using within = run(merged);
  expect(allClose(beside, within, { atol: 1e-5 })).toBe(true);
});

describe("refused, in one sentence", () => {
  const failure = (path: string): WaverError => {
    try {
      withFile(path).dispose();
    } catch (error) {
      expect(error).toBeInstanceOf(WaverError);
      return error as WaverError;
    }
    throw new Error(`${path} was taken`);
  };
  const extra = (key: string, value = 1): string => {
    using one = tensor([value]);
    return file(peft, { extra: { [key]: one } });
  };

  test.each<[string, () => string, string, RegExp]>([
    ["no file", () => join(scratch, "none"), "checkpoint_missing", /no LoRA at/],
    [
      "keys of something else",
      () => extra("blocks.0.scale"),
      "checkpoint_invalid",
      /not a LoRA's \(1\): blocks\.0\.scale/,
    ],
    ["DoRA", () => extra("transformer.blocks.0.attn1.to_q.dora_scale"), "checkpoint_invalid", /is a DoRA/],
    ["LoKr", () => extra("transformer.blocks.0.attn1.to_q.lokr_w1"), "checkpoint_invalid", /is a LoKr/],
    ["half a layer", () => extra("transformer.blocks.1.attn1.to_q.lora_A.weight"), "checkpoint_invalid", /needs both/],
    ["a whole difference", () => extra("transformer.blocks.0.norm2.diff"), "checkpoint_invalid", /not of low rank/],
    [
      "another network",
      () => file((layer) => peft(layer.replace("attn1", "attn9"))),
      "checkpoint_mismatch",
      /does not have \(2 of 2\): transformer\.blocks\.0\.attn9\.to_out\.0, /,
    ],
    [
      "another size",
      () => {
        const path = join(scratch, "size.safetensors");
        const { down, up } = peft("blocks.0.attn1.to_q");
        scope(() => saveSafetensors(path, { [down]: random([RANK, 8], 1), [up]: random([4, RANK], 2) }));
        return path;
      },
      "checkpoint_mismatch",
      /which is \[4,6\] here, by \[4,2\] x \[2,8\]/,
    ],
  ])("%s", (_name, make, code, message) => {
    const error = failure(make());
    expect([error.code as string, error.message]).toEqual([code, expect.stringMatching(message)]);
  });

  test("a difference of nothing but zeros is none", () => {
    withFile(extra("transformer.blocks.0.norm2.diff", 0)).dispose();
  });
});
