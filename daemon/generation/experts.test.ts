import { describe, expect, test } from "bun:test";
import type { Denoiser, Used } from "../../plugins/index.ts";
import { Residency } from "../runner/residency.ts";
import { Experts } from "./experts.ts";
import type { Component, Pipeline } from "./pipeline.ts";

const component = (name: string): Component => ({
  name,
  className: "Network",
  id: "network",
  path: `/${name}`,
  options: {},
});
const model = (boundary?: number): Pipeline =>
  ({
    family: component("transformer"),
    ...(boundary === undefined ? {} : { family2: { ...component("transformer_2"), from: boundary } }),
  }) as Pipeline;

/** Networks of 8 bytes each in the runner's own residency. */
function open(model: Pipeline, residency: Residency, events: string[]): Experts {
  return new Experts(model, {
    async open({ name }) {
      const held = await residency.acquire(
        {
          ...{ hook: "family", id: name, origin: name, key: name, bytes: () => 8, unloaded: () => undefined },
          async load() {
            events.push(`load ${name}`);
            return { [Symbol.asyncDispose]: async () => void events.push(`drop ${name}`) };
          },
        },
        new AbortController().signal,
      );
      const use = async () => ({ forward: () => name }) as unknown as Denoiser;
      return Object.assign(use, { [Symbol.dispose]: held.release }) as unknown as Used<"family">;
    },
    adapt: async () => (work) => work(),
  });
}
const predicted = (experts: Experts): unknown => experts.current.forward({} as never);

describe("two denoisers", () => {
  test("follow one another in memory that holds one", async () => {
    const events: string[] = [];
    await using residency = new Residency({ budget: 12, keepAliveMs: 10_000 });
    const experts = open(model(0.9), residency, events);
    await experts.any();
    const seen: unknown[] = [];
    for (const t of [1, 0.9, 0.899, 0.5, 1]) {
      await experts.select(t);
      seen.push(predicted(experts));
    }
    expect(seen).toEqual(["transformer", "transformer", "transformer_2", "transformer_2", "transformer"]);
    expect(events).toEqual([
      "load transformer",
      ...["drop transformer", "load transformer_2"],
      ...["drop transformer_2", "load transformer"],
    ]);
  });

  test("stay side by side where there is room", async () => {
    const events: string[] = [];
    await using residency = new Residency({ budget: 16, keepAliveMs: 10_000 });
    const experts = open(model(0.9), residency, events);
    for (const t of [1, 0.5, 1, 0.5]) await experts.select(t);
    expect(events).toEqual(["load transformer", "load transformer_2"]);
  });

  test("need a sampler that announces its steps; one denoiser does not", async () => {
    await using residency = new Residency({ budget: 16, keepAliveMs: 10_000 });
    const two = open(model(0.9), residency, []);
    await two.any();
    expect(() => two.current).toThrow(/does not announce its steps/);
    const one = open(model(), residency, []);
    await one.any();
    expect(predicted(one)).toBe("transformer");
  });
});
