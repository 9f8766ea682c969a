/** The generate page in a real browser: in by a ticket, a form from the schema, progress with previews, a clip that plays. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { encodePng } from "../../daemon/generation/png.ts";
import { RealDaemon } from "../support/real-daemon.ts";

const MODEL = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");
const browserPath =
  process.env["WAVER_CHROMIUM"] ?? Bun.which("chromium") ?? Bun.which("chromium-browser") ?? Bun.which("google-chrome");

describe.skipIf(browserPath === null)("the generate page", () => {
  let daemon: RealDaemon;
  let browser: Browser;
  let context: BrowserContext;
  let page: Page;
  const problems: string[] = [];
  const address = async (): Promise<string> => {
    const answer = await daemon.client.request("POST", "/v1/session/tickets", { body: {} });
    return daemon.addresses[1] + ((await answer.json()) as { path: string }).path;
  };

  beforeAll(async () => {
    daemon = await RealDaemon.start({ WAVER_TCP_PORT: "0" });
    // Small sizes are the folder's own, so that the form may stay as it is.
    const model = join(daemon.home, "models", "tiny");
    cpSync(MODEL, model, { recursive: true });
    const index = JSON.parse(readFileSync(join(model, "model_index.json"), "utf8")) as object;
    const defaults = { width: 64, height: 64, numFrames: 9, fps: 8, numSteps: 4000 }; // long enough for previews to be seen on a quick machine
    writeFileSync(join(model, "model_index.json"), JSON.stringify({ ...index, _waver: { defaults } }));
    const record = { name: "tiny", source: "hf:org/tiny", revision: "0".repeat(40), pulledAt: "2026-01-01T00:00:00Z" };
    writeFileSync(join(daemon.home, "models", "tiny.json"), JSON.stringify({ ...record, bytes: 1, files: [] }));
    // The tests may run as root in a container, where Chromium's own sandbox cannot start.
    browser = await chromium.launch({ executablePath: browserPath as string, args: ["--no-sandbox"] });
    context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
    page = await context.newPage();
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
  });
  afterAll(async () => {
    await browser?.close();
    await daemon?.[Symbol.asyncDispose]();
  });

  test("has an address that the shell prints", async () => {
    const open = async (home: string): Promise<{ code: number; text: string }> => {
      const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../cli/index.ts"), "open", "--home", home], {
        env: { PATH: process.env["PATH"], HOME: home, XDG_CONFIG_HOME: home },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const said = [new Response(child.stdout).text(), new Response(child.stderr).text()];
      return { text: (await Promise.all(said)).join(""), code: await child.exited };
    };
    expect(await open(daemon.home)).toEqual({
      code: 0,
      text: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\/open#[0-9a-f]{64}\n$/),
    });
    // by default there is no address that a browser reaches
    await using closed = await RealDaemon.start();
    const said = await open(closed.home);
    expect([said.code, said.text]).toEqual([
      2,
      expect.stringMatching(/listens on its socket alone[\s\S]*WAVER_TCP_PORT/),
    ]);
  });

  test("opens by a ticket, once", async () => {
    const url = await address();
    await page.goto(url);
    await page.waitForURL("**/generate");
    await page.waitForSelector("#go:not([disabled])");
    expect(await page.evaluate(() => document.cookie)).toBe("");
    const other = await (await browser.newContext()).newPage();
    await other.goto(url);
    await other.waitForFunction(() => document.getElementById("said")?.textContent?.includes("used before"));
    expect((await other.goto(`${daemon.addresses[1]}/generate`))?.status()).toBe(401);
    await other.close();
  });

  test("has the fields of the operation, and the models that are here", async () => {
    const labels = await page.locator("label").allTextContents();
    for (const label of ["Prompt", "Negative prompt", "Model", "Image", "Width", "Steps", "Seed", "Seconds"])
      expect(labels).toContain(label);
    expect(await page.locator("legend").allTextContents()).toEqual(expect.arrayContaining(["Guide", "Sampler"]));
    // one model is here: it is chosen
    expect(await page.inputValue("[name=model]")).toBe("tiny");
    for (const left of ["output", "latents", "promptFile"])
      expect(await page.locator(`[name=${left}]`).count()).toBe(0);
  });

  test("says in one sentence what is wrong", async () => {
    await page.click("#go");
    await page.waitForFunction(() => document.getElementById("problem")?.textContent !== "");
    expect(await page.textContent("#problem")).toMatch(/prompt/);
    await page.fill("[name=prompt]", "x");
    await page.click("#more summary");
    await page.fill("[name=numFrames]", "8");
    await page.click("#go");
    await page.waitForFunction(() => document.getElementById("problem")?.textContent?.includes("5 or 9"));
    await page.fill("[name=numFrames]", "");
  });

  test("shows previews on the way and the clip in the end", async () => {
    await page.fill("[name=prompt]", "a <b>cat</b> walks & talks");
    await page.click("#go");
    await page.waitForSelector("#stage img.preview", { timeout: 60_000 });
    const width = await page.locator("#stage img.preview").evaluate((image: HTMLImageElement) => image.naturalWidth);
    expect(width).toBe(64);
    expect(await page.isVisible("#bar")).toBe(true);
    if (process.env["WAVER_SCREENSHOTS"])
      await page.screenshot({ path: join(process.env["WAVER_SCREENSHOTS"], "preview.png") });
    // a page that is opened again goes on with the job that it left
    await page.reload();
    await page.waitForSelector("#stage video", { timeout: 120_000 });
    const [size, length] = await page.locator("#stage video").evaluate(
      (video: HTMLVideoElement) =>
        new Promise<[number, number]>((done, fail) => {
          const ready = (): void => done([video.videoWidth, video.duration]);
          video.onerror = () => fail(new Error(video.error?.message));
          if (video.readyState >= 1) ready();
          else video.onloadedmetadata = ready;
        }),
    );
    expect(size).toBe(64);
    expect(length).toBeCloseTo(9 / 8, 1);
    expect(await page.textContent("#state")).toBe("Done.");
    if (process.env["WAVER_SCREENSHOTS"])
      await page.screenshot({ path: join(process.env["WAVER_SCREENSHOTS"], "done.png"), fullPage: true });
  });

  test("cancels", async () => {
    await page.fill("[name=prompt]", "another one");
    await page.click("#more summary");
    await page.fill("[name=numSteps]", "1000");
    await page.click("#go");
    await page.waitForFunction(() => document.getElementById("state")?.textContent?.startsWith("denoise"), {
      timeout: 60_000,
    });
    await page.click("#cancel");
    await page.waitForFunction(() => document.getElementById("state")?.textContent === "Cancelled.", {
      timeout: 20_000,
    });
    expect(await page.isVisible("#cancel")).toBe(false);
  });

  test("sends a picture that a person picked", async () => {
    await page.fill("[name=numSteps]", "2");
    await page.setInputFiles("[name=image]", {
      ...{ name: "first.png", mimeType: "image/png" },
      buffer: Buffer.from(encodePng(new Uint8Array(48 * 48 * 3).fill(120), 48, 48)),
    });
    await page.click("#go");
    // this checkpoint has no room for an image, which is only known once the picture was kept and looked at
    await page.waitForFunction(() => document.getElementById("problem")?.textContent?.includes("from text only"), {
      timeout: 60_000,
    });
  });

  test("meets no blocked script, style or address", () => {
    // refusals that were asked for above are the only words in the console
    expect(problems.filter((text) => !/status of 4\d\d|net::ERR/.test(text))).toEqual([]);
  });

  test("of another origin reads nothing and changes nothing", async () => {
    const evil = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => new Response("<!doctype html><p>", { headers: { "Content-Type": "text/html" } }),
    });
    const before = (await daemon.client.jobs({ limit: 1000 })).length;
    const attacker = await context.newPage();
    await attacker.goto(`http://127.0.0.1:${evil.port}/`);
    // the same host, so the browser sends the session along: only origin and type keep it out
    const results = await attacker.evaluate(async (base) => {
      const tried = async (path: string, init: RequestInit): Promise<string> =>
        fetch(base + path, init).then(
          async (answer) =>
            answer.type === "opaque" ? "opaque" : `${answer.status} ${(await answer.text()).slice(0, 20)}`,
          () => "blocked",
        );
      const body = JSON.stringify({ model: "tiny", prompt: "x" });
      const form = new FormData();
      form.set("prompt", "x");
      form.set("model", "tiny");
      return Promise.all([
        tried("/v1/status", { credentials: "include" }),
        tried("/v1/generate", {
          method: "POST",
          body,
          credentials: "include",
          headers: { "Content-Type": "application/json" },
        }),
        tried("/v1/generate", { method: "POST", body, credentials: "include", mode: "no-cors" }),
        tried("/v1/videos", { method: "POST", body: form, credentials: "include", mode: "no-cors" }),
        tried("/v1/session/tickets", { method: "POST", body: "{}", credentials: "include", mode: "no-cors" }),
      ]);
    }, daemon.addresses[1] as string);
    for (const each of results) expect(["blocked", "opaque"]).toContain(each);
    expect((await daemon.client.jobs({ limit: 1000 })).length).toBe(before);
    await attacker.close();
    await evil.stop(true);
  });
});
