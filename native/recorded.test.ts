/** What holds wherever it runs. The recording itself needs an accelerator; the README says that none has run it. */
import { expect, test } from "bun:test";
import * as w from "./index.ts";

class Net extends w.Module {
  readonly first = new w.Linear(4, 4);
  readonly keys = new w.Linear(4, 4);

  /** Keys of the text are kept with it: a later call does not read their weights. */
  forward(x: w.Tensor, text: w.Tensor): w.Tensor {
    const [k] = w.remembered(text, this.keys, [this.keys], () => [this.keys.forward(text)]);
    return this.first.forward(x).add(k as w.Tensor);
  }
}
const noise = (seed: number, shape = [3, 4]): w.Tensor => {
  using generator = new w.Generator(seed);
  return w.randn(shape, { generator });
};
/** One call on fresh noise. */
const call = (recorded: w.Recorded, seed: number): number[] => w.scope(() => recorded.run([noise(seed)]).toNumbers());

test("gives what the function gives, and is recorded once while what it stands on stays", () => {
  const alive = w.liveTensors();
  {
    using generator = new w.Generator(1);
    using net = new Net().init(generator);
    using text = noise(2);
    using example = noise(3);
    using recorded = new w.Recorded(
      "cpu",
      [example],
      ([x]) => net.forward(x as w.Tensor, text),
      () => net.parameters(),
    );
    const plain = (seed: number): number[] => w.scope(() => w.noGrad(() => net.forward(noise(seed), text).toNumbers()));
    for (const seed of [3, 4, 5]) expect(call(recorded, seed)).toEqual(plain(seed));
    expect(recorded.times).toBe(1);

    // added to in place, replaced, and where only what is kept of it is read
    w.noGrad(() => net.first.weight.add_(1));
    expect(call(recorded, 6)).toEqual(plain(6));
    w.scope(() => net.first.weight.materialise(net.first.weight.detach().mul(2)));
    expect(call(recorded, 7)).toEqual(plain(7));
    w.noGrad(() => net.keys.weight.mul_(3));
    expect(call(recorded, 8)).toEqual(plain(8));
    expect(recorded.times).toBe(4);
    expect(call(recorded, 9)).toEqual(plain(9));
    expect(recorded.times).toBe(4);
  }
  expect(w.liveTensors()).toBe(alive);
});

test("holds the memory of what others let go of", () => {
  const table = noise(1);
  using example = noise(2);
  using recorded = new w.Recorded("cpu", [example], ([x]) => (x as w.Tensor).add(1));
  call(recorded, 2);
  // read by the first call only, as a table that another job replaces
  let first = true;
  using reading = new w.Recorded("cpu", [example], ([x]) => {
    if (!first) return (x as w.Tensor).add(0);
    first = false;
    return (x as w.Tensor).add(table);
  });
  call(reading, 2);
  const held = w.liveTensors();
  table.dispose();
  expect(w.liveTensors()).toBe(held - 1);
  expect(call(reading, 3)).toEqual(w.scope(() => noise(3).toNumbers()));
  expect(reading.times).toBe(1);
});

test("refuses inputs of another shape or dtype, and leaves nothing behind an error", () => {
  const alive = w.liveTensors();
  {
    using example = noise(1);
    using recorded = new w.Recorded("cpu", [example], ([x]) => (x as w.Tensor).mul(2));
    expect(() => w.scope(() => recorded.run([noise(1, [2, 4])]))).toThrow("input 0 was recorded as");
    expect(() => w.scope(() => recorded.run([noise(1).to({ dtype: "bfloat16" })]))).toThrow("input 0");
    expect(() => w.scope(() => recorded.run([]))).toThrow("input 0");
    using failing = new w.Recorded("cpu", [example], ([x]) => (x as w.Tensor).mul(2).matmul(x as w.Tensor));
    expect(() => call(failing, 1)).toThrow();
    expect(() => call(failing, 1)).toThrow();
  }
  expect(w.liveTensors()).toBe(alive);
});
