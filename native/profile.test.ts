import { expect, test } from "bun:test";
import { Generator, profiled, profileTable, randn, scope, setThreads } from "./index.ts";

setThreads(1);

test("a profile counts calls and FLOPs of each operator, and leaves the result alone", () => {
  scope(() => {
    using generator = new Generator(1);
    const x = randn([8, 16], { generator });
    const y = randn([16, 4], { generator });
    const plain = x.mm(y).mm(y.transpose(0, 1)).sum().item();
    const profile = profiled(() => x.mm(y).mm(y.transpose(0, 1)).sum().item());
    expect(profile.result).toBe(plain);
    const mm = profile.rows.find(({ op }) => op === "aten::mm");
    expect([mm?.calls, mm?.flops]).toEqual([2, 2 * 2 * 8 * 16 * 4]);
    expect(profile.rows.reduce((sum, { seconds }) => sum + seconds, 0)).toBeLessThanOrEqual(profile.seconds);
    expect(profileTable(profile)).toMatch(/aten::mm +2 .*\n(.*\n)*between operators/);
  });
});
