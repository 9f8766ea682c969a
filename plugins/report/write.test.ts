import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { type TestContext, testContext } from "../../test/support/context.ts";
import { madeUpDescription } from "../../test/support/description.ts";
import { WaverError } from "../errors.ts";
import type { Description } from "./description.ts";
import { writeReport } from "./write.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-report-"));
const output = join(folder, "report");
const browserPath =
  process.env["WAVER_CHROMIUM"] ?? Bun.which("chromium") ?? Bun.which("chromium-browser") ?? Bun.which("google-chrome");
let ctx: TestContext;
let description: Description;

beforeAll(async () => {
  ctx = await testContext({ plugins: [] });
  description = await madeUpDescription(folder, ctx.store);
  writeFileSync(join(folder, "description.json"), JSON.stringify(description));
}, 120_000);
afterAll(async () => {
  await ctx[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

describe("a report from a description", () => {
  test("everything that the page refers to lies in its folder", async () => {
    const written = await writeReport(join(folder, "description.json"), output, ctx);
    expect(written.page).toBe(join(output, "index.html"));
    const text = readFileSync(written.page, "utf8");
    const references = [...text.matchAll(/(?:src|href|poster)="([^"#][^"]*)"/g)]
      .map(([, path]) => path as string)
      .filter((path) => path !== "data:,");
    expect(references.length).toBeGreaterThan(20);
    for (const path of references) {
      expect(path).not.toMatch(/^(?:[a-z]+:|\/)/);
      expect(existsSync(join(output, decodeURIComponent(path)))).toBe(true);
    }
    expect(text.includes("://")).toBe(false);
    expect(written.numClips).toBe(9);
    expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
  }, 120_000);

  test("a second report replaces the first", async () => {
    const before = readdirSync(join(output, "media")).length;
    await writeReport(join(folder, "description.json"), output, ctx);
    expect(readdirSync(join(output, "media")).length).toBe(before);
  }, 120_000);

  test("a clip that is missing ends in a sentence and leaves the old report", async () => {
    const broken = join(folder, "broken.json");
    writeFileSync(broken, JSON.stringify({ ...description, sources: [{ file: "nowhere.mp4", caption: "x" }] }));
    const failure = await writeReport(broken, output, ctx).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(WaverError);
    expect((failure as WaverError).code).toBe("media_missing");
    expect(existsSync(join(output, "index.html"))).toBe(true);
    expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
  });

  test("a file that describes nothing ends in a sentence", async () => {
    const wrong = join(folder, "wrong.json");
    writeFileSync(wrong, '{"title": 3}');
    const failure = await writeReport(wrong, output, ctx).catch((error: unknown) => error);
    expect((failure as WaverError).code).toBe("invalid_input");
  });
});

describe.skipIf(browserPath === null)("in a browser, from the folder", () => {
  let browser: Browser;
  const open = async (
    how: { dark?: boolean; width?: number } = {},
  ): Promise<{ page: Page; problems: string[]; requests: string[] }> => {
    const page = await browser.newPage({
      viewport: { width: how.width ?? 1280, height: 900 },
      colorScheme: how.dark ? "dark" : "light",
    });
    const [problems, requests]: [string[], string[]] = [[], []];
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("request", (request) => requests.push(request.url()));
    await page.goto(pathToFileURL(join(output, "index.html")).href);
    return { page, problems, requests };
  };
  beforeAll(async () => {
    // The tests may run as root in a container, where Chromium's own sandbox cannot start.
    browser = await chromium.launch({
      executablePath: browserPath as string,
      args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
    });
  });
  afterAll(() => browser.close());

  test("every clip decodes, nothing is loaded from elsewhere, the console stays empty", async () => {
    const { page, problems, requests } = await open();
    const videos = page.locator("video");
    const count = await videos.count();
    expect(count).toBeGreaterThan(20);
    for (let i = 0; i < count; i++) {
      const video = videos.nth(i);
      await video.scrollIntoViewIfNeeded();
      await video.evaluate(
        (element: HTMLVideoElement) =>
          element.readyState >= 2 ||
          new Promise((done, fail) => {
            element.addEventListener("loadeddata", done, { once: true });
            element.addEventListener("error", () => fail(new Error(`${element.src}: ${element.error?.message}`)), {
              once: true,
            });
          }),
      );
      expect(await video.evaluate((element: HTMLVideoElement) => element.videoWidth)).toBeGreaterThan(0);
    }
    expect(problems).toEqual([]);
    const inside = pathToFileURL(output).href;
    expect(requests.filter((url) => !url.startsWith(inside) && !url.startsWith("data:"))).toEqual([]);
    await page.close();
  }, 180_000);

  test("clips in view play; the button and the keyboard stop them", async () => {
    const { page } = await open();
    const video = page.locator("#text-to-video video").first();
    await video.scrollIntoViewIfNeeded();
    await page.waitForFunction(() => !(document.querySelector("#text-to-video video") as HTMLVideoElement).paused);
    await video.focus();
    await page.keyboard.press("Enter");
    expect(await video.evaluate((element: HTMLVideoElement) => element.paused)).toBe(true);
    await page.locator("#play").click();
    await page.waitForFunction(() => [...document.querySelectorAll("video")].every((element) => element.paused));
    expect(await page.locator("#play").textContent()).toBe("Play all clips");
    await page.close();
  }, 60_000);

  test("words that look like markup stay words", async () => {
    const { page } = await open();
    expect(await page.locator("#evil").count()).toBe(0);
    expect(await page.evaluate(() => (globalThis as { owned?: boolean }).owned)).toBeUndefined();
    expect(await page.locator("text=<img id=evil").count()).toBeGreaterThan(0);
    await page.close();
  }, 60_000);

  test("every picture has words, every section a heading, and nothing is wider than a phone", async () => {
    const { page } = await open({ width: 390 });
    const wordless = await page.evaluate(
      () =>
        [...document.querySelectorAll("video,img,svg[role=img]")].filter(
          (element) => !(element.getAttribute("aria-label") ?? element.getAttribute("alt")),
        ).length,
    );
    expect(wordless).toBe(0);
    const headless = await page.evaluate(
      () =>
        [...document.querySelectorAll("section")].filter(
          (section) => !document.getElementById(section.getAttribute("aria-labelledby") ?? ""),
        ).length,
    );
    expect(headless).toBe(0);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
    await page.close();
  }, 60_000);

  test.skipIf(process.env["WAVER_SCREENSHOTS"] === undefined)(
    "is looked at",
    async () => {
      const to = process.env["WAVER_SCREENSHOTS"] as string;
      for (const [name, how] of [
        ["light", {}],
        ["dark", { dark: true }],
        ["phone", { width: 390 }],
      ] as const) {
        const { page } = await open(how);
        await page.waitForTimeout(500);
        await page.screenshot({ path: join(to, `${name}.png`), fullPage: true });
        await page.close();
      }
    },
    120_000,
  );
});

test("the page does not know where it lies", () => {
  expect(readFileSync(join(output, "index.html"), "utf8").includes(folder)).toBe(false);
});
