import { describe, expect, test } from "bun:test";
import {
  Generator,
  liveTensors,
  noGrad,
  randn,
  type Schema,
  scope,
  setThreads,
  type Tensor,
  withInterceptor,
  withLowRank,
} from "../../native/index.ts";
import { WanTransformer } from "./model.ts";
import { WanConfig } from "./params.ts";

setThreads(1);
const CONFIG = {
  num_attention_heads: 2,
  attention_head_dim: 12,
  in_channels: 4,
  out_channels: 4,
  text_dim: 8,
  freq_dim: 16,
  ffn_dim: 20,
  num_layers: 2,
};
const network = (more: Partial<typeof CONFIG> & { image_dim?: number; added_kv_proj_dim?: number } = {}) => {
  using generator = new Generator(5);
  return new WanTransformer(WanConfig.parse({ ...CONFIG, ...more })).init(generator);
};
const noise = (shape: number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};

/** One step; `text` is the job's, everything else the step's. */
const step = (net: WanTransformer, text: Tensor, seed: number, image?: Tensor): number[] =>
  scope(() =>
    noGrad(() =>
      net
        .forward({ latents: noise([1, 4, 3, 4, 6], seed), timestep: noise([1], seed).abs().mul(1000), text, image })
        .toNumbers(),
    ),
  );
/** The same with nothing kept: the text is a new tensor. */
const fresh = (net: WanTransformer, text: Tensor, seed: number, image?: Tensor): number[] =>
  scope(() => step(net, text.clone(), seed, image?.clone()));
/** Matrix products of linear layers in one step. */
const products = (run: () => void): number => {
  let count = 0;
  const before = ({ name }: Schema): void => {
    if (name === "aten::linear") count++;
  };
  withInterceptor({ before }, run);
  return count;
};

describe("text keys and values", () => {
  test("are computed once a prompt, by every block", () => {
    using net = network();
    using text = noise([1, 6, 8], 1);
    const first = products(() => step(net, text, 1));
    const second = products(() => step(net, text, 2));
    expect(first - second).toBe(2 + 2 * CONFIG.num_layers); // the embedder's two, then keys and values
    expect(step(net, text, 3)).toEqual(fresh(net, text, 3));
  });

  test("two jobs in turn keep their own", () => {
    using net = network();
    using a = noise([1, 6, 8], 1);
    using b = noise([1, 6, 8], 2);
    for (const seed of [1, 2, 3]) {
      expect(step(net, a, seed)).toEqual(fresh(net, a, seed));
      expect(step(net, b, seed)).toEqual(fresh(net, b, seed));
      expect(step(net, a, seed)).not.toEqual(step(net, b, seed));
    }
    const alone = products(() => step(net, a, 4));
    expect(products(() => step(net, b, 4))).toBe(alone);
  });

  test("follow weights that change between steps: added to in place, as LoRA does, or replaced", () => {
    using net = network();
    using text = noise([1, 6, 8], 1);
    const before = step(net, text, 1);
    const { to_k, norm_k } = net.blocks[1]?.attn2 ?? expect.unreachable();
    using update = noise([24, 24], 7);
    noGrad(() => to_k.weight.add_(update));
    const after = step(net, text, 1);
    expect(after).not.toEqual(before);
    expect(after).toEqual(fresh(net, text, 1));
    noGrad(() => norm_k.weight?.mul_(2));
    expect(step(net, text, 1)).toEqual(fresh(net, text, 1));
    const { linear_1 } = net.condition_embedder.text_embedder;
    scope(() => linear_1.weight.materialise(linear_1.weight.detach().mul(3)));
    expect(step(net, text, 1)).toEqual(fresh(net, text, 1));
    noGrad(() => text.mul_(2)); // and a text that changes
    expect(step(net, text, 1)).toEqual(fresh(net, text, 1));
  });

  test("follow what rides on a layer, on and off between steps", () => {
    using net = network();
    using text = noise([1, 6, 8], 1);
    const layer = net.blocks[0]?.attn2.to_v ?? expect.unreachable();
    using down = noise([2, 24], 8);
    using up = noise([24, 2], 9);
    const plain = step(net, text, 1);
    for (const scale of [1, 0.5]) {
      const addition = new Map([[layer, { down, up, scale }]]);
      const adapted = withLowRank(addition, () => step(net, text, 1));
      expect(adapted).not.toEqual(plain);
      expect(adapted).toEqual(withLowRank(addition, () => fresh(net, text, 1)));
    }
    expect(step(net, text, 1)).toEqual(plain);
  });

  test("go with the text", () => {
    using net = network({ image_dim: 10, added_kv_proj_dim: 24 });
    {
      using text = noise([1, 512, 8], 1);
      using image = noise([1, 5, 10], 2);
      step(net, text, 1, image);
    }
    const before = liveTensors();
    {
      using text = noise([1, 512, 8], 3);
      using image = noise([1, 5, 10], 4);
      expect(step(net, text, 1, image)).toEqual(fresh(net, text, 1, image));
    }
    expect(liveTensors()).toBe(before);
  });
});
