import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkPlugin, failures } from "../testing.ts";
import { gsbScore } from "./gsb.ts";
import plugin from "./index.ts";
import { preference } from "./preference.ts";
import { bradleyTerry, type Match } from "./ratings.ts";
import { readVotes, type Vote } from "./votes.ts";

const scratch = mkdtempSync(join(tmpdir(), "votes-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const repeated = (match: Match, times: number): Match[] => Array.from({ length: times }, () => match);

test("the plugin keeps the contract", async () => {
  expect(failures(await checkPlugin(plugin))).toEqual([]);
});

test("two models: the odds of their wins, and the interval of a binomial", () => {
  const { elo, margin } = bradleyTerry(["x", "y"], [...repeated([0, 1, 1], 30), ...repeated([0, 1, 0], 10)]);
  expect((elo[0] as number) - (elo[1] as number)).toBeCloseTo(400 * Math.log10(3), 6);
  // variance of the log odds of 30 : 10 is 1/30 + 1/10; each model has half the distance
  const half = (1.959963984540054 * (400 / Math.log(10)) * Math.sqrt(1 / 30 + 1 / 10)) / 2;
  expect(margin[0]).toBeCloseTo(half, 6);
});

test("more votes, narrower intervals; a tie moves both together", () => {
  const few = bradleyTerry(["x", "y"], [...repeated([0, 1, 1], 3), ...repeated([0, 1, 0], 1)]);
  const many = bradleyTerry(["x", "y"], [...repeated([0, 1, 1], 300), ...repeated([0, 1, 0], 100)]);
  expect(many.margin[0] as number).toBeCloseTo((few.margin[0] as number) / 10, 6);
  expect(bradleyTerry(["x", "y"], repeated([0, 1, 0.5], 7)).theta).toEqual([0, 0]);
});

test("who never lost has no rating", () => {
  expect(() =>
    bradleyTerry(
      ["x", "y", "z"],
      [
        [0, 1, 1],
        [1, 2, 1],
        [2, 1, 1],
      ],
    ),
  ).toThrow(/between x and y, z/);
});

test("a pair is one pair whichever side it stood on, dimension by dimension", () => {
  const votes: Vote[] = [
    { a: "new", b: "old", winner: "a" },
    { a: "old", b: "new", winner: "b" },
    { a: "old", b: "new", winner: "a" },
    { a: "new", b: "old", winner: "same", dimension: "motion" },
  ];
  const { models, pairs } = preference(votes);
  expect(models.map(({ model, votes }) => [model, votes])).toEqual([
    ["new", 4],
    ["old", 4],
  ]);
  expect(pairs).toEqual([
    { a: "new", b: "old", dimension: "overall", ...gsbScore({ good: 2, same: 0, bad: 1 }) },
    { a: "new", b: "old", dimension: "motion", ...gsbScore({ good: 0, same: 1, bad: 0 }) },
  ]);
});

test("votes come as a list or as lines; what is none is named", async () => {
  const write = (name: string, text: string): string => {
    writeFileSync(join(scratch, name), text);
    return join(scratch, name);
  };
  const vote = { a: "x", b: "y", winner: "same" };
  expect(await readVotes(write("list.json", JSON.stringify([vote])))).toEqual([vote as Vote]);
  expect(await readVotes(write("lines.jsonl", `${JSON.stringify(vote)}\n\n${JSON.stringify(vote)}\n`))).toHaveLength(2);
  await expect(readVotes(write("bad.jsonl", '{"a": "x"}'))).rejects.toThrow(/vote 1 of .* is not one/);
  await expect(readVotes(write("self.json", '[{"a": "x", "b": "x", "winner": "a"}]'))).rejects.toThrow(/one model/);
  await expect(readVotes(write("text.jsonl", "x wins"))).rejects.toThrow(/line 1 is not JSON/);
  await expect(readVotes(join(scratch, "none"))).rejects.toMatchObject({ code: "not_found" });
});
