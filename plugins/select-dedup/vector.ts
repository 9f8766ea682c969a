/** Products of feature vectors. */
export type Vector = Float32Array<ArrayBuffer>;

export function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** The vector at length 1; a vector of zeros stays one. */
export function unit(values: Vector): Vector {
  const length = Math.sqrt(dot(values, values));
  return length === 0 ? values : values.map((value) => value / length);
}
