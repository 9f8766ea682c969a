import { expect, test } from "bun:test";
import { z } from "zod";
import { problemsOfRanks, rankFields, ranksOf } from "./mesh.ts";

const Request = z.strictObject(rankFields);
const parallel = { attention: "auto", replicas: 1, shardWeights: false };

test.each([
  ["auto", parallel],
  ["ulysses", { ...parallel, attention: "ulysses" }],
  ["ring", { ...parallel, attention: "ring" }],
  ["cfg", { ...parallel, replicas: 2 }],
] as const)("%s is a word for its parts", (word, parts) => {
  const request = Request.parse({ ranks: 4, parallel: word });
  expect<unknown>(request.parallel).toEqual(parts);
  expect<unknown>(ranksOf(request)).toEqual({ count: 4, ...parts });
  expect(Request.parse(request)).toEqual(request); // a journalled request is read again
  expect([...problemsOfRanks(4, request.parallel)]).toEqual([]);
});

test("what one rank shares is a mistake", () => {
  expect([...problemsOfRanks(1, Request.parse({ parallel: "cfg" }).parallel)]).toHaveLength(1);
  expect([...problemsOfRanks(1, Request.parse({}).parallel)]).toEqual([]);
});
