import { expect, test } from "bun:test";
import { type Figures, verdictOf } from "./verdict.ts";

const good: Figures = {
  vaePsnr: 25.2,
  memorised: { count: 27, of: 36, chance: 1 / 12 },
  firstFrame: { psnr: 23.4, of: 12 },
  refined: { nearer: 5, of: 6, enlarged: 0.5, distance: 0.4 },
  motion: { generated: 3, training: 4 },
  sharpness: { generated: 90, training: 180 },
};

test("all reached", () => {
  const { tone, headline, sentences, measures, shortcomings } = verdictOf(good, { isShort: false });
  expect(tone).toBe("good");
  expect(headline).toBe("The model makes the clips it was asked for");
  expect(sentences[0]).toContain("27 of 36");
  expect(measures[0]).toMatchObject({ value: 27, chance: 3, required: "at least 9", goal: "24", isReached: true });
  expect(measures.find(({ name }) => name === "Motion")?.value).toBe(0.75);
  expect(shortcomings).toEqual([]);
});

test("what is not reached is said, in headline and list", () => {
  const { tone, headline, shortcomings } = verdictOf(
    { ...good, refined: { nearer: 3, of: 6, enlarged: 0.5, distance: 0.6 } },
    { isShort: false },
  );
  expect(tone).toBe("mixed");
  expect(headline).toContain("refiner");
  expect(shortcomings).toHaveLength(1);
  const bad = verdictOf(
    { ...good, memorised: { count: 8, of: 36, chance: 1 / 12 }, firstFrame: { psnr: 12, of: 12 } },
    { isShort: false },
  );
  expect(bad.tone).toBe("bad");
  expect(bad.shortcomings).toHaveLength(2);
});

test("the bounds belong to the failing side", () => {
  const at = (count: number) =>
    verdictOf({ ...good, memorised: { count, of: 36, chance: 1 / 12 } }, { isShort: false }).measures[0]?.isReached;
  expect([at(8), at(9)]).toEqual([false, true]);
  expect(verdictOf({ ...good, firstFrame: { psnr: 20, of: 12 } }, { isShort: false }).measures[1]?.isReached).toBe(
    false,
  );
  expect(
    verdictOf({ ...good, refined: { nearer: 4, of: 6, enlarged: 1, distance: 1 } }, { isShort: false }).measures[2]
      ?.isReached,
  ).toBe(true);
});

test("a short run asks for nothing, and a part that did not run says so", () => {
  const { headline, measures, shortcomings } = verdictOf(
    { vaePsnr: 25.2, memorised: null, firstFrame: null, refined: null, motion: null, sharpness: null },
    { isShort: true },
  );
  expect(headline).toContain("short run");
  expect(
    measures.every(
      ({ name, isReached, value, remark }) =>
        name === "VAE" || (isReached === null && value === null && remark === "not run"),
    ),
  ).toBe(true);
  expect(shortcomings).toEqual([]);
});
