import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  allClose,
  applyRopeHalves,
  CausalDecoder,
  type Choice,
  chooseTokens,
  type DecoderConfig,
  Generator,
  generate,
  KVCache,
  type LanguageModel,
  linear,
  noGrad,
  padLeft,
  randn,
  ropeTable,
  scaledDotProductAttention,
  scope,
  segmentedAttention,
  setThreads,
  type Tensor,
  tensor,
} from "../index.ts";

setThreads(1);

const config = (over: Partial<DecoderConfig> = {}): DecoderConfig => ({
  vocab_size: 50,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 4,
  rms_norm_eps: 1e-6,
  qkv_bias: true,
  rope_theta: 10_000,
  ...over,
});

/** A decoder whose embedding is also its head, with weights large enough that tokens differ. */
class Tiny implements LanguageModel, Disposable {
  readonly decoder: CausalDecoder;

  constructor(over: Partial<DecoderConfig> = {}, seed = 1) {
    using generator = new Generator(seed);
    this.decoder = new CausalDecoder(config(over)).init(generator);
    noGrad(() => {
      for (const weight of this.decoder.parameters()) if (weight.ndim === 2) weight.mul_(15);
    });
  }
  head(states: Tensor): Tensor {
    return linear(states, this.decoder.embed_tokens.weight);
  }
  /** Logits [S V] of one row of tokens, all at once. */
  logits(ids: readonly number[]): Tensor {
    const positions = [[ids.map((_, i) => i)]];
    return noGrad(() =>
      scope(() => this.head(this.decoder.forward(this.decoder.embed([ids]), { positions })).select(0, 0)),
    );
  }
  /** Greedy continuation without a cache. */
  continued(prompt: readonly number[], count: number): number[] {
    const ids = [...prompt];
    for (let n = 0; n < count; n++) ids.push(scope(() => this.logits(ids).select(0, -1).argmax().item()));
    return ids.slice(prompt.length);
  }
  generate(prompts: readonly (readonly number[])[], options: Parameters<typeof generate>[3]): (number | null)[][] {
    const rows: (number | null)[][] = prompts.map(() => []);
    const open = () => {
      const { ids, real, positions } = padLeft(prompts, 0);
      return { x: this.decoder.embed(ids), real, positions: [positions] };
    };
    for (const tokens of generate(this, prompts, open, options))
      tokens.forEach((token, i) => void rows[i]?.push(token));
    return rows;
  }
  [Symbol.dispose](): void {
    this.decoder.dispose();
  }
}

const sentence = (length: number, seed: number): number[] => Array.from({ length }, (_, i) => (i * 7 + seed * 11) % 50);
const HEADS = [
  { num_attention_heads: 6, num_key_value_heads: 2 },
  { num_attention_heads: 6, num_key_value_heads: 1 },
  { num_attention_heads: 3, num_key_value_heads: 3, head_dim: 10, qkv_bias: false },
] as const;

describe("the decoder", () => {
  test.each(HEADS)("in pieces with a cache it says what it says at once: %j", (heads) => {
    using model = new Tiny(heads);
    const ids = sentence(13, 2);
    scope(() => {
      const whole = model.logits(ids);
      using cache = new KVCache(13);
      const parts = [ids.slice(0, 6), ids.slice(6, 10), ids.slice(10, 11), ids.slice(11)].map((piece) =>
        noGrad(() => {
          const positions = [[piece.map((_, i) => cache.length + i)]];
          const x = model.decoder.embed([piece]);
          return model.head(model.decoder.forward(x, { positions, cache })).select(0, 0);
        }),
      );
      let at = 0;
      for (const part of parts) {
        expect(allClose(part, whole.narrow(0, at, part.size(0)), { atol: 2e-4 })).toBe(true);
        at += part.size(0);
      }
      expect(cache.length).toBe(13);
    });
  });

  test.each(HEADS)("a row is continued in a padded batch as it is alone, and as without a cache: %j", (heads) => {
    using model = new Tiny(heads);
    const prompts = [sentence(9, 1), sentence(3, 5), sentence(1, 3), sentence(9, 4)];
    const together = model.generate(prompts, { maxTokens: 8 });
    for (const [i, prompt] of prompts.entries()) {
      expect(together[i]).toEqual(model.continued(prompt, 8));
      expect(model.generate([prompt], { maxTokens: 8 })[0]).toEqual(together[i] as number[]);
    }
  });

  test("a row ends at a stop token, the others go on; leaving early frees the cache", () => {
    using model = new Tiny();
    const prompts = [sentence(5, 1), sentence(7, 2)];
    const free = model.generate(prompts, { maxTokens: 10 });
    const stop = free[0]?.[2] as number;
    const ended = model.generate(prompts, { maxTokens: 10, stop: [stop] });
    const end = (row: (number | null)[]): number => (row.includes(stop) ? row.indexOf(stop) + 1 : row.length);
    for (const [i, row] of ended.entries()) {
      const first = free[i] as number[];
      const length = Math.max(...free.map(end));
      expect(row).toEqual(first.slice(0, length).map((token, n) => (n < end(first) ? token : null)));
    }
    for (const _ of generate(
      model,
      [[1]],
      () => ({ x: model.decoder.embed([[1]]), positions: [[[0]]], real: undefined }),
      { maxTokens: 5 },
    ))
      break;
  });

  test("tokens may stand in the place of marks; as many as there are marks", () => {
    using model = new Tiny();
    scope(() => {
      const tokens = tensor([Array<number>(24).fill(1), Array<number>(24).fill(2)]);
      const x = model.decoder.embed([[3, 9, 9, 4]], { isMark: (id) => id === 9, tokens });
      expect(x.select(0, 0).narrow(0, 1, 2).mean(-1).toNumbers()).toEqual([1, 2]);
      expect(allClose(x.narrow(1, 0, 1), model.decoder.embed([[3]]))).toBe(true);
      expect(() => model.decoder.embed([[9]], { isMark: (id) => id === 9, tokens })).toThrow(
        "1 marks in the text for 2 tokens",
      );
    });
  });

  test("with positions in three axes that agree it is the decoder of one axis", () => {
    using plain = new Tiny();
    using three = new Tiny({ mrope_section: [1, 0, 1] });
    scope(() => {
      const ids = sentence(7, 1);
      const axis = [ids.map((_, i) => i)];
      const x = three.decoder.embed([ids]);
      const states = noGrad(() => three.head(three.decoder.forward(x, { positions: [axis, axis, axis] })).select(0, 0));
      expect(allClose(states, plain.logits(ids))).toBe(true);
      expect(() => three.decoder.forward(x, { positions: [axis] })).toThrow("1 tables of positions for 3 axes");
    });
  });

  test("a full cache says how much is needed", () => {
    using model = new Tiny();
    using cache = new KVCache(3);
    scope(() => {
      const x = model.decoder.embed([[1, 2, 3, 4]]);
      expect(() => model.decoder.forward(x, { positions: [[[0, 1, 2, 3]]], cache })).toThrow(
        "a cache for 3 tokens, 0 + 4 are needed",
      );
    });
  });
});

describe("the choice of a token", () => {
  const choose = (scores: readonly number[], rows: readonly number[], choice: Choice): number =>
    scope(() => chooseTokens(tensor([[...scores]]), [rows], choice)[0] as number);

  test("takes the best; a penalty brings down what was said, also below zero", () => {
    expect(choose([1, 3, 2], [], {})).toBe(1);
    expect(choose([1, 3, 2], [1], { repetitionPenalty: 2 })).toBe(2);
    expect(choose([-1, -1.5, -4], [0, 0], { repetitionPenalty: 2 })).toBe(1);
    expect(() => choose([1, 2], [], { temperature: 1 })).toThrow("sampling needs a generator");
  });

  test("draws only from what the filters leave, as often as the rest of the softmax says", () => {
    const score = fc.integer({ min: -32, max: 32 }).map((n) => n / 8); // no two so near that rounding ties them
    fc.assert(
      fc.property(
        fc.uniqueArray(score, { minLength: 2, maxLength: 12 }),
        fc.integer({ min: 1, max: 12 }),
        fc.double({ min: 0.05, max: 1, noNaN: true }),
        fc.constantFrom(0.5, 1, 1.7),
        (scores, topK, topP, temperature) => {
          const sharp = scores.map((x) => Math.fround(Math.fround(x) / temperature));
          const order = sharp
            .map((_, i) => i)
            .sort((a, b) => (sharp[b] as number) - (sharp[a] as number))
            .slice(0, topK);
          const weight = (i: number): number => Math.exp((sharp[i] as number) - (sharp[order[0] as number] as number));
          const total = order.reduce((sum, i) => sum + weight(i), 0);
          let before = 0;
          const left = new Set<number>();
          const doubtful = new Set<number>(); // within rounding of the limit
          for (const i of order) {
            if (Math.abs(before - topP) < 1e-5) doubtful.add(i);
            else if (before < topP) left.add(i);
            before += weight(i) / total;
          }
          left.add(order[0] as number);
          using generator = new Generator(7);
          for (let n = 0; n < 20; n++) {
            const token = choose(scores, [], { temperature, topK, topP, generator });
            expect(left.has(token) || doubtful.has(token)).toBe(true);
          }
        },
      ),
      { numRuns: 60, seed: 3 },
    );
    using generator = new Generator(1);
    const counts = [0, 0, 0];
    const draws = 4000;
    for (let n = 0; n < draws; n++)
      counts[choose([Math.log(5), Math.log(3), Math.log(2)], [], { temperature: 1, generator })]!++;
    // four standard deviations of a share near one half
    for (const [i, share] of [0.5, 0.3, 0.2].entries())
      expect(Math.abs((counts[i] as number) / draws - share)).toBeLessThan(4 * Math.sqrt(0.25 / draws));
  });

  test("equal seeds give equal texts, another seed another", () => {
    using model = new Tiny();
    const say = (seed: number): (number | null)[][] => {
      using generator = new Generator(seed);
      return model.generate([sentence(5, 1), sentence(2, 2)], { maxTokens: 12, temperature: 1.5, topK: 20, generator });
    };
    expect(say(4)).toEqual(say(4));
    expect(say(4)).not.toEqual(say(5));
  });
});

describe("attention within segments", () => {
  test.each([[[4, 4, 4]], [[3, 5, 3, 1, 5]], [[7]], [[1, 1, 1, 1]]])("%j is attention with a mask", (lengths) => {
    using generator = new Generator(2);
    scope(() => {
      const total = lengths.reduce((a, b) => a + b, 0);
      const [q, k, v] = [0, 1, 2].map(() => randn([1, 2, total, 6], { generator })) as [Tensor, Tensor, Tensor];
      const segment = lengths.flatMap((length, i) => Array<number>(length).fill(i));
      const mask = tensor(segment.map((a) => segment.map((b) => a === b)));
      const seen = segmentedAttention(q, k, v, lengths);
      expect(seen.shape).toEqual([1, 2, total, 6]);
      expect(allClose(seen, scaledDotProductAttention(q, k, v, { mask }), { atol: 1e-6 })).toBe(true);
      expect(() => segmentedAttention(q, k, v, [...lengths, 1])).toThrow(`segments of ${total + 1} tokens`);
    });
  });
});

test("rotation of halves turns x0 with x[d/2]; a table of another size is an error", () => {
  scope(() => {
    const rope = ropeTable([0, 3], 4, 100);
    const x = tensor([1, 0, 0, 1, 1, 0, 0, 1]).view([1, 1, 2, 4]);
    const want = [1, 0, 0, 1, Math.cos(3), -Math.sin(0.3), Math.sin(3), Math.cos(0.3)];
    for (const [i, v] of applyRopeHalves(x, rope).toNumbers().entries()) expect(v).toBeCloseTo(want[i] as number, 6);
    const rows = { cos: rope.cos.unsqueeze(0), sin: rope.sin.unsqueeze(0) };
    expect(allClose(applyRopeHalves(x, rows), applyRopeHalves(x, rope))).toBe(true);
    expect(() => applyRopeHalves(x.narrow(2, 0, 1), rope)).toThrow("needs a table [S, 2]");
  });
});
