// A part of a checkpoint under the names that a module gives it, and what it weighs.
import { type DType, itemSize } from "./dtype.ts";
import type { WeightSource } from "./nn/module.ts";
import type { Checkpoint, TensorInfo } from "./safetensors.ts";

/** Some of a checkpoint's tensors, by their names in a module. */
export interface Weights extends WeightSource {
  readonly keys: readonly string[];
  info(key: string): TensorInfo;
}

/** `nameOf` gives a key's name in the module, or undefined where the module has no place for it. Disposing closes the checkpoint. */
export function weightsOf(
  file: Checkpoint,
  nameOf: (key: string) => string | undefined = (key) => key,
): Weights & Disposable {
  const keys = new Map<string, string>();
  for (const key of file.keys) {
    const name = nameOf(key);
    if (name !== undefined) keys.set(name, key);
  }
  const keyOf = (name: string): string => keys.get(name) ?? name;
  return {
    keys: [...keys.keys()],
    get: (name) => file.get(keyOf(name)),
    info: (name) => file.info(keyOf(name)),
    prefetch: (name) => file.prefetch(keyOf(name)),
    release: (name) => file.release(keyOf(name)),
    exclusive: true,
    [Symbol.dispose]: () => file.dispose(),
  };
}

/** Bytes of weights in memory, from the headers alone; as stored without a dtype. */
export const bytesOf = ({ keys, info }: Pick<Weights, "keys" | "info">, dtype?: DType): number =>
  keys.reduce((sum, key) => {
    const { bytes, shape } = info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
