import { expect, test } from "bun:test";
import { join } from "node:path";
import {
  allClose,
  fromBytes,
  full,
  Generator,
  interpolate,
  rand,
  scope,
  setThreads,
  stack,
  type Tensor,
} from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import { degradePixels, halveChroma } from "./degrade.ts";

setThreads(1);

test("halving colour leaves luma and grey pictures as they were", () =>
  scope(() => {
    using generator = new Generator(1);
    const pixels = rand([2, 3, 8, 12], { generator });
    const luma = (x: Tensor) => {
      const [r, g, b] = x.unbind(-3) as [Tensor, Tensor, Tensor];
      return r.mul(0.2126).add(g.mul(0.7152)).add(b.mul(0.0722));
    };
    expect(allClose(luma(halveChroma(pixels)), luma(pixels), { atol: 1e-6 })).toBe(true);
    const grey = pixels.narrow(1, 0, 1).expand([2, 3, 8, 12]);
    expect(allClose(halveChroma(grey), grey, { atol: 1e-6 })).toBe(true);
    expect(allClose(halveChroma(pixels), pixels, { atol: 0.05 })).toBe(false);
  }));

test("a picture of one colour survives every degradation", () =>
  scope(() => {
    const red = stack([full([4, 8, 8], 0.9), full([4, 8, 8], -0.4), full([4, 8, 8], 0.1)], 1);
    const { up } = degradePixels(red, 2, "bicubic", { chroma: true });
    expect(allClose(up, red, { atol: 1e-5 })).toBe(true);
  }));

// What the refiner learns from and what it is given have to lose their colour alike: the two differ in latents by less than
// what enlarging costs (configs/train/LOG.md).
test("colour is halved as writing and reading a file does it", async () => {
  await using ctx = await testContext({ plugins: [] });
  const [width, height] = [64, 48];
  using generator = new Generator(2);
  // Patches of bold colour with hard edges, which is where half the colour resolution shows.
  using picture = scope(() =>
    interpolate(rand([1, 3, 13, 17], { generator }).mul(0.7).add(0.15), {
      size: [height + 4, width + 4],
      mode: "nearest",
    })
      .narrow(2, 1, height)
      .narrow(3, 1, width)
      .contiguous(),
  );
  const data = scope(() => picture.select(0, 0).permute([1, 2, 0]).mul(255).round().to("uint8").bytes());
  const path = join(ctx.home, "colours.mp4");
  await ctx.media.writeVideo(path, [{ data, count: 1, width, height, format: "rgb24", times: [0] }], {
    fps: 8,
    crf: 1,
  });
  let read = new Uint8Array();
  for await (const batch of ctx.media.frames(path, { width, height, fit: "cover", rate: 8, format: "rgb24", batch: 1 }))
    read = new Uint8Array(batch.data);
  scope(() => {
    const file = fromBytes(read, "uint8", [height, width, 3]).permute([2, 0, 1]).unsqueeze(0).float().div(255);
    const distance = (to: Tensor): number => file.sub(to).square().mean().sqrt().item();
    expect(distance(picture)).toBeGreaterThan(0.04);
    expect(distance(halveChroma(picture).clamp(0, 1))).toBeLessThan(distance(picture) / 4);
  });
});
