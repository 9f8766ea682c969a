/** Generated texts of a case: the sequences and the logits that every step chose from. */
import type { Tensor } from "../../native/index.ts";
import type { Produce } from "./case.ts";
import type { Golden, NdArray } from "./golden.ts";

/** Rows of token ids without their padding. */
export function rowsOf(ids: NdArray, mask: NdArray): number[][] {
  const [B, S] = ids.shape as [number, number];
  return Array.from({ length: B }, (_, row) =>
    Array.from({ length: S }, (_, i) => row * S + i)
      .filter((i) => mask.data[i] !== 0)
      .map((i) => ids.data[i] as number),
  );
}

/** Runs a generation and hands out `generate.sequences` (padded on the left as the input was) and `generate.step_logits`. */
export function continueRows(
  golden: Golden,
  produce: Produce,
  prompts: readonly (readonly number[])[],
  start: (observe: (logits: Tensor) => void) => Iterable<readonly (number | null)[]>,
): void {
  const steps: { shape: readonly number[]; data: Float32Array }[] = [];
  const rows = prompts.map((row) => [...row]);
  const observe = (logits: Tensor): void => void steps.push({ shape: logits.shape, data: logits.toFloat32Array() });
  for (const tokens of start(observe)) tokens.forEach((token, i) => void rows[i]?.push(token as number));
  const [B, total] = golden.reference("generate.sequences").shape as [number, number];
  const padded = rows.flatMap((row) => [...new Array<number>(total - row.length).fill(0), ...row]);
  produce("generate.sequences", { shape: [B, total], data: padded });
  const V = steps[0]?.shape[1] as number;
  const data = new Float32Array(B * steps.length * V);
  for (const [n, step] of steps.entries())
    for (let row = 0; row < B; row++)
      data.set(step.data.subarray(row * V, (row + 1) * V), (row * steps.length + n) * V);
  produce("generate.step_logits", { shape: [B, steps.length, V], data });
}
