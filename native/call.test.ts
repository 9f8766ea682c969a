import { describe, expect, test } from "bun:test";
import { one as callOne, cat, conv2d, many, ones, scalar, schema, scope, setThreads, tensor, zeros } from "./index.ts";

setThreads(1);

describe("a call", () => {
  test("takes numbers, lists, booleans, nothing and null as the schema wants them", () => {
    scope(() => {
      const x = tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]);
      expect(x.add(1).toNumbers()).toEqual([2, 3, 4, 5, 6, 7]);
      expect(x.sum([0], true).shape).toEqual([1, 3]);
      expect(x.sum(1).toNumbers()).toEqual([6, 15]); // one number for a list
      expect(x.slice(1, null, 2).shape).toEqual([2, 2]);
      expect(x.clamp(undefined, 3).toNumbers()).toEqual([1, 2, 3, 3, 3, 3]);
      expect(cat([x, x], -1).shape).toEqual([2, 6]);
      expect(conv2d(ones([1, 1, 4, 4]), ones([1, 1, 2, 2]), null, { stride: 2 }).toNumbers()).toEqual([4, 4, 4, 4]);
      expect(callOne(schema("aten::add", "Scalar"), x, true).toNumbers()).toEqual([2, 3, 4, 5, 6, 7]);
    });
  });

  test("keeps an integer tensor integral for 2 and makes it a float for scalar(2)", () => {
    scope(() => {
      const add = schema("aten::add", "Scalar");
      const x = tensor([1], { dtype: "int64" });
      expect(callOne(add, x, 2).dtype).toBe("int64");
      expect(callOne(add, x, scalar(2)).dtype).toBe("float32");
      expect(callOne(add, x, 0.5).dtype).toBe("float32");
    });
  });

  test("in place gives the very tensor, several results come in order", () => {
    scope(() => {
      const x = tensor([3, 1, 2]);
      expect(x.add_(1)).toBe(x);
      const [values, order] = many(schema("aten::sort"), x, 0, false);
      expect([values?.toNumbers(), order?.toArray()]).toEqual([[2, 3, 4], BigInt64Array.from([1n, 2n, 0n])]);
    });
  });

  test("takes lists of any length", () => {
    scope(() => {
      const one = tensor([1]);
      expect(
        cat(Array.from({ length: 3000 }, () => one))
          .sum()
          .item(),
      ).toBe(3000);
    });
  });

  test("says what is wrong, with the shapes", () => {
    scope(() => {
      const [x, y] = [zeros([2, 3]), zeros([4, 5])];
      expect(() => x.mm(y)).toThrow(/aten::mm.*float32\[2,3\].*float32\[4,5\]/);
      expect(() => x.view([7])).toThrow(/aten::view/);
      expect(() => x.sum([0.5])).toThrow(/integer/);
      expect(() => callOne(schema("aten::mm"), x)).toThrow(/mat2 is missing/);
      expect(() => callOne(schema("aten::relu"), null)).toThrow(/must not be null/);
      expect(() => callOne(schema("aten::relu"), 3)).toThrow(/must be a tensor, got number/);
      expect(() => callOne(schema("aten::relu"), x, 1)).toThrow(/takes 1/);
      y.dispose();
      expect(() => x.mm(y)).toThrow(/mat2: .*disposed/);
      expect(() => cat([x, y])).toThrow(/disposed/);
      expect(x.add(1).sum().item()).toBe(6); // and goes on
    });
  });
});
