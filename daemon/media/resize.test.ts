import { expect, test } from "bun:test";
import type { FrameBatch } from "../../plugins/types.ts";
import { resizeImage } from "./resize.ts";

const image = (width: number, height: number): FrameBatch => ({
  data: Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37 + ((i * i) >> 3)) % 256),
  ...{ count: 1, width, height, format: "rgb24", times: [0] },
});

// What Pillow 13.0.0 makes of the same pixels, `resize(size, LANCZOS)`.
test("a stretched picture is Pillow's, byte for byte", () => {
  expect([...resizeImage(image(9, 7), { width: 4, height: 3 }, "stretch").data]).toEqual([
    114, 113, 113, 144, 106, 111, 150, 134, 117, 113, 157, 88, 133, 102, 117, 135, 135, 107, 122, 127, 142, 149, 114,
    73, 44, 128, 204, 164, 80, 139, 192, 116, 104, 158, 109, 97,
  ]);
  const digests = [
    [{ width: 96, height: 64 }, "e900348b4d53784df78d97392fa3ca3e51c71250a7e5524a4f41508cfbd392ed"],
    [{ width: 640, height: 480 }, "155ab2144780d810ee38eeb0ced4726759e20e9bc81a75ca018cf0342a35510c"],
    [{ width: 333, height: 100 }, "722f0927c7dd67780bbc4ccec2d907ef1d4be25126cbbda5683378f9c4066d38"],
  ] as const;
  for (const [size, digest] of digests) {
    const { data } = resizeImage(image(333, 217), size, "stretch");
    expect([size, new Bun.CryptoHasher("sha256").update(data).digest("hex")]).toEqual([size, digest]);
  }
});

test("one that covers keeps its shape and its middle", () => {
  // Pillow's resize with the box of the largest middle square
  expect([...resizeImage(image(9, 7), { width: 4, height: 4 }, "cover").data]).toEqual([
    139, 114, 114, 145, 98, 107, 164, 145, 113, 108, 151, 110, 143, 119, 115, 114, 121, 109, 139, 133, 140, 140, 92,
    100, 102, 96, 126, 181, 133, 96, 92, 162, 163, 167, 86, 80, 33, 114, 197, 204, 54, 141, 217, 105, 101, 168, 116, 81,
  ]);
  const same = image(12, 8);
  expect(resizeImage(same, { width: 12, height: 8 }, "cover").data).toEqual(same.data);
});
