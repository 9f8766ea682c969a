import { expect, test } from "bun:test";
import { recipes, sourceOf } from "./recipe.ts";

/** Every published Wan that diffusers has a repository of, by the name in its documentation (api/pipelines/wan). */
test.each([
  ["wan2.1-t2v-1.3b", "wan2.1-1.3b", "Wan2.1-T2V-1.3B-Diffusers"],
  ["wan2.1-t2v-14b", "wan2.1-14b", "Wan2.1-T2V-14B-Diffusers"],
  ["wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-480p", "Wan2.1-I2V-14B-480P-Diffusers"],
  ["wan2.1-i2v-14b-720p", "wan2.1-i2v-14b-720p", "Wan2.1-I2V-14B-720P-Diffusers"],
  ["wan2.1-flf2v-14b-720p", "wan2.1-flf2v-14b", "Wan2.1-FLF2V-14B-720P-diffusers"],
  ["wan2.2-t2v-a14b", "wan2.2-t2v-a14b", "Wan2.2-T2V-A14B-Diffusers"],
  ["wan2.2-i2v-a14b", "wan2.2-i2v-a14b", "Wan2.2-I2V-A14B-Diffusers"],
  ["wan2.2-ti2v-5b", "wan2.2-ti2v-5b", "Wan2.2-TI2V-5B-Diffusers"],
])("%s", (asked, name, repository) => {
  expect(sourceOf(asked)).toMatchObject({ name, repository: `Wan-AI/${repository}`, revision: "main" });
  expect(sourceOf(name)).toEqual(sourceOf(asked));
});

test("no name stands for two", () => {
  const names = [...recipes()].flatMap(([name, { also }]) => [name, ...also]);
  expect(new Set(names).size).toBe(names.length);
});
