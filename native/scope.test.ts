import { afterEach, describe, expect, test } from "bun:test";
import * as w from "./index.ts";

afterEach(() => expect(w.liveTensors()).toBe(0));

describe("scope", () => {
  test("frees what it does not return", () => {
    const { kept, list, map } = w.scope(() => {
      const a = w.zeros([1]);
      return { kept: a.add(1), list: [a.add(2)], map: new Map([["x", a.add(3)]]) };
    });
    expect(w.liveTensors()).toBe(3);
    expect([kept, list[0] as w.Tensor, map.get("x") as w.Tensor].map((t) => t.item())).toEqual([1, 2, 3]);
    for (const t of [kept, ...list, ...map.values()]) t.dispose();
  });
  test("what an inner scope returns belongs to the outer one", () => {
    let inner: w.Tensor | undefined;
    w.scope(() => {
      inner = w.scope(() => w.ones([1]).add(1));
      expect(inner.item()).toBe(2);
      expect(w.liveTensors()).toBe(1);
    });
    expect(inner?.disposed).toBe(true);
  });
  test("keep moves a tensor out of all scopes", () => {
    const kept: w.Tensor[] = [];
    w.scope(() => {
      w.scope(() => {
        kept.push(w.keep(w.ones([1])));
      });
    });
    const k = kept[0] as w.Tensor;
    expect(k.item()).toBe(1);
    k.dispose();
  });
  test("an exception frees everything", () => {
    expect(() =>
      w.scope(() => {
        w.zeros([1]);
        throw new Error("no");
      }),
    ).toThrow("no");
  });
  test("an async function is refused, and its tensors are freed", () => {
    expect(() => w.scope(async () => w.zeros([1]))).toThrow("async");
  });
  test("a gradient goes with its tensor", () => {
    w.scope(() => {
      const x = w.ones([2]).requiresGrad_();
      x.mul(3).sum().backward();
      expect(x.grad?.toNumbers()).toEqual([3, 3]);
      expect(x.grad).toBe(x.grad);
    });
  });
  test("tensors disposed by hand inside a long loop are forgotten", () => {
    w.scope(() => {
      for (let i = 0; i < 5000; i++) w.zeros([1]).dispose();
      const t = w.zeros([1]);
      expect(t.owner?.tensors.length).toBeLessThan(2000);
    });
  });
  test("ownership cycles in the returned value end", () => {
    const box: { self?: unknown; t: w.Tensor } = w.scope(() => {
      const b: { self?: unknown; t: w.Tensor } = { t: w.zeros([1]) };
      b.self = b;
      return b;
    });
    box.t.dispose();
  });
});

describe("Scope", () => {
  test("two jobs interleaved over awaits keep their own tensors", async () => {
    const job = async (name: number) => {
      using s = new w.Scope();
      let x = s.run(() => w.full([1], name));
      for (let i = 0; i < 5; i++) {
        await Bun.sleep(1);
        x = s.run(() => x.add(1));
      }
      return s.run(() => x.item());
    };
    expect(await Promise.all([job(10), job(20)])).toEqual([15, 25]);
  });
  test("keep, own, clear and use after dispose", () => {
    const s = new w.Scope();
    const out = s.keep(s.run(() => w.ones([1])));
    const borrowed = s.own(w.zeros([1]));
    s.run(() => w.zeros([1]));
    s.clear();
    expect(borrowed.disposed).toBe(true);
    s.dispose();
    expect(out.item()).toBe(1);
    out.dispose();
    expect(() => s.run(() => 1)).toThrow("disposed");
    expect(() => new w.Scope().run(async () => 1)).toThrow("async");
  });
  test("the ambient scope is put back after run", () => {
    using s = new w.Scope();
    w.scope(() => {
      s.run(() => w.zeros([1]));
      const t = w.zeros([1]);
      expect(t.owner).not.toBeNull();
      expect(w.liveTensors()).toBe(2);
    });
    expect(w.liveTensors()).toBe(1);
  });
});

test("the finaliser is the net, and it counts", async () => {
  const before = w.leaked();
  (() => void w.zeros([1]))();
  for (let i = 0; i < 50 && w.liveTensors() > 0; i++) {
    Bun.gc(true);
    await Bun.sleep(5);
  }
  expect(w.liveTensors()).toBe(0);
  expect(w.leaked()).toBe(before + 1);
});

test("bytes are back to zero after a thousand iterations", () => {
  const before = w.allocatedBytes();
  for (let i = 0; i < 1000; i++) {
    w.scope(() => {
      const x = w.ones([64, 64]).requiresGrad_();
      x.matmul(x).silu().sum().backward();
      return x.grad?.toFloat32Array().length;
    });
  }
  expect(w.allocatedBytes()).toBe(before);
});
