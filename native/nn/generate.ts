// Continuing texts with a causal decoder: one pass over the prompts, then one token a row a step.
import { noGrad } from "../autograd.ts";
import { EngineError } from "../errors.ts";
import type { Generator } from "../generator.ts";
import { op, tensor } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { KVCache } from "./cache.ts";
import type { CausalDecoder, Positions } from "./decoder.ts";

/** How the next token is chosen; by the best score when `temperature` is 0. */
export interface Choice {
  readonly temperature?: number;
  /** Only the k best tokens, k >= 1. */
  readonly topK?: number | undefined;
  /** Only the best tokens that together have this probability (Holtzman et al. 2020). */
  readonly topP?: number | undefined;
  /** Scores of tokens that the row holds already are divided by it, or multiplied where negative (Keskar et al. 2019). */
  readonly repetitionPenalty?: number | undefined;
  /** Needed unless the best token is taken. */
  readonly generator?: Generator;
}

const multinomial = op("aten::multinomial");

/** logits [B V], and the tokens of each row so far -> the next token of each row. Filters act in transformers' order. */
export function chooseTokens(logits: Tensor, rows: readonly (readonly number[])[], choice: Choice): number[] {
  const { temperature = 0, topK, topP, repetitionPenalty = 1, generator } = choice;
  return noGrad(() =>
    scope(() => {
      let scores = logits.to("float32");
      if (repetitionPenalty !== 1) scores = penalised(scores, rows, repetitionPenalty);
      if (temperature === 0) return scores.argmax(-1).toNumbers();
      if (generator === undefined) throw new EngineError("op_arguments", "sampling needs a generator");
      scores = scores.div(temperature);
      if (topK !== undefined && topK < scores.size(-1)) {
        const least = scores.topk(topK)[0].narrow(-1, topK - 1, 1);
        scores = scores.maskedFill(scores.lt(least), Number.NEGATIVE_INFINITY);
      }
      if (topP !== undefined && topP < 1) {
        const [sorted, order] = scores.sort(-1, false);
        const tail = sorted
          .softmax(-1)
          .cumsum(-1)
          .le(1 - topP);
        tail.narrow(-1, -1, 1).fill_(0); // the best one stays
        scores = scores.maskedFill(tail.scatter(-1, order, tail), Number.NEGATIVE_INFINITY);
      }
      // where the generator is: equal seeds give equal texts on every device
      return multinomial(scores.softmax(-1).to(generator.device), 1, false, generator).flatten().toNumbers();
    }),
  );
}

function penalised(scores: Tensor, rows: readonly (readonly number[])[], penalty: number): Tensor {
  const changed = scores.clone();
  for (const [i, tokens] of rows.entries()) {
    const row = changed.select(0, i);
    const ids = tensor([...new Set(tokens)], { dtype: "int64", device: scores.device });
    const held = row.indexSelect(0, ids);
    row.copy_(row.scatter(0, ids, held.mul(penalty).where(held.lt(0), held.div(penalty))));
  }
  return changed;
}

/** Prompts of one batch, left-padded: a row's last token is the batch's last column. */
export interface PaddedPrompts {
  /** [B][S] */
  readonly ids: readonly (readonly number[])[];
  /** [B][S]; absent when no row is padded. */
  readonly real: readonly (readonly boolean[])[] | undefined;
  /** [B][S], from 0 at each row's first token. */
  readonly positions: readonly (readonly number[])[];
}

export function padLeft(rows: readonly (readonly number[])[], pad: number): PaddedPrompts {
  const longest = Math.max(...rows.map((row) => row.length));
  const gaps = rows.map((row) => longest - row.length);
  const fill = <T>(i: number, value: T): T[] => new Array<T>(gaps[i] as number).fill(value);
  return {
    ids: rows.map((row, i) => [...fill(i, pad), ...row]),
    real: gaps.some((gap) => gap > 0) ? rows.map((row, i) => [...fill(i, false), ...row.map(() => true)]) : undefined,
    positions: rows.map((row, i) => [...fill(i, 0), ...row.keys()]),
  };
}

/** A batch as a decoder sees it first. */
export interface Opening {
  /** [B S D], embedded and left-padded. */
  readonly x: Tensor;
  readonly positions: Positions;
  readonly real: readonly (readonly boolean[])[] | undefined;
}

export interface GenerateOptions extends Choice {
  readonly maxTokens: number;
  /** Tokens that end a row; each is still given out. */
  readonly stop?: readonly number[];
  /** Sees the logits [B V] that every step chose from. */
  readonly observe?: (logits: Tensor) => void;
}

export interface LanguageModel {
  readonly decoder: CausalDecoder;
  /** states [B D] -> logits [B V] */
  head(states: Tensor): Tensor;
}

/**
 * Continues a batch: yields the new token of every row a step, null for rows that have ended, until all have or
 * `maxTokens` are given. Between steps only the cache is alive; leaving early frees it.
 */
export function* generate(
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  open: () => Opening,
  { maxTokens, stop = [], observe, ...choice }: GenerateOptions,
): IterableIterator<readonly (number | null)[]> {
  const rows = prompts.map((row) => [...row]);
  const ended = rows.map(() => false);
  const longest = Math.max(...rows.map((row) => row.length));
  using cache = new KVCache(longest + maxTokens);
  let real: boolean[][] | undefined;
  /** Of the next token, [axes][B]: one after the last in every axis. */
  let next: number[][] = [];

  /** Through the decoder, then the head on each row's last token, then the choice. */
  const step = (make: () => { x: Tensor; positions: Positions }): number[] =>
    noGrad(() =>
      scope(() => {
        const { x, positions } = make();
        const mask = real && tensor(real, { dtype: "bool", device: x.device });
        const states = model.decoder.forward(x, { positions, real: mask, cache });
        const logits = model.head(states.select(1, -1));
        observe?.(logits);
        if (Number.isNaN(logits.max().item()))
          throw new EngineError("numeric_invalid", "the language model's scores are not numbers", "try dtype float32");
        return chooseTokens(logits, rows, choice);
      }),
    );

  for (let n = 0; n < maxTokens && !ended.every(Boolean); n++) {
    const tokens = step(() => {
      if (n === 0) {
        const opening = open();
        real = opening.real?.map((row) => [...row]);
        next = opening.positions.map((axis) => axis.map((row) => (row.at(-1) as number) + 1));
        return opening;
      }
      const last = rows.map((row) => [row.at(-1) as number]);
      const positions = next.map((axis) => axis.map((at) => [at]));
      next = next.map((axis) => axis.map((at) => at + 1));
      for (const row of real ?? []) row.push(true);
      return { x: model.decoder.embed(last), positions };
    });
    const given = tokens.map((token, i) => (ended[i] ? null : token));
    for (const [i, token] of tokens.entries()) {
      // an ended row goes on with its last token: nobody looks at it, and the batch keeps its shape
      if (ended[i]) continue;
      rows[i]?.push(token);
      ended[i] = stop.includes(token);
    }
    yield given;
  }
}
