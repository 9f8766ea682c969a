import { expect, test } from "bun:test";
import type { WaverError } from "../../plugins/index.ts";
import type { RegisteredProvider, Registry } from "../plugins/registry.ts";
import { candidates, refusal } from "./plan.ts";

test("traits are matched by value, membership and range", () => {
  const traits = { classes: ["T5", "UMT5"], latent: "wan", maxScale: 2, trainable: true };
  expect(refusal(traits, {})).toBeNull();
  expect(refusal(traits, { latent: "wan", classes: "T5", trainable: true })).toBeNull();
  expect(refusal(traits, { classes: ["T5", "UMT5"] })).toBeNull();
  expect(refusal(traits, { maxScale: { min: 2 } })).toBeNull();
  expect(refusal(traits, { maxScale: { min: 3 } })).toBe('maxScale is 2, not {"min":3}');
  expect(refusal(traits, { latent: "waver" })).toBe("latent is wan, not waver");
  expect(refusal(traits, { classes: "CLIP" })).toContain("CLIP");
  expect(refusal(traits, { dim: 3 })).toBe("says nothing of dim");
});

test("a refusal lists every candidate with the one fact that refused it", () => {
  const provider = (id: string, latent: string): RegisteredProvider =>
    ({ id, plugin: `p-${id}`, traits: { latent } }) as unknown as RegisteredProvider;
  const registry = {
    providers: (hook: string) => (hook === "codec" ? [provider("a", "x"), provider("b", "y")] : []),
  } as unknown as Registry;
  expect(candidates(registry, { hook: "codec", where: { latent: "y" } }, "family f").map(({ id }) => id)).toEqual([
    "b",
  ]);
  const refused = (() => {
    try {
      return candidates(registry, { hook: "codec", where: { latent: "z" } }, "family f");
    } catch (error) {
      return error as WaverError;
    }
  })();
  expect(refused).toMatchObject({ code: "needs_unmet" });
  expect((refused as WaverError).message).toEndWith("a (latent is x, not z); b (latent is y, not z)");
  expect(() => candidates(registry, { hook: "guide" }, "family f")).toThrow("no installed plugin has one");
});
