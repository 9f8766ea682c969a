import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { noGrad } from "../autograd.ts";
import { withInterceptor } from "../call.ts";
import type { DType } from "../dtype.ts";
import { Generator } from "../generator.ts";
import { ones, randn } from "../ops.ts";
import { allocatedBytes, emptyCache, peakBytes, resetPeakBytes, setThreads } from "../runtime.ts";
import { type Checkpoint, openSafetensors, saveSafetensors } from "../safetensors.ts";
import { liveTensors, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { setBlockKeeper, setBlockPolicy, throughBlocks } from "./blocks.ts";
import { Linear, linearGelu, packLinears } from "./linear.ts";
import { withLowRank } from "./lowrank.ts";
import { Module } from "./module.ts";
import { offloadedBytes, PinnedBlocks } from "./offload.ts";
import { remembered } from "./remembered.ts";

setThreads(1);
const folder = mkdtempSync(join(tmpdir(), "waver-offload-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const WIDTH = 96;
const BLOCKS = 6;

/** Two products, and a text whose keys are kept from call to call. */
class Block extends Module {
  readonly up: Linear;
  readonly down: Linear;
  readonly keys: Linear;
  readonly #size: number;

  constructor(size: number) {
    super();
    this.#size = size;
    this.up = new Linear(WIDTH, size);
    this.down = new Linear(size, WIDTH);
    this.keys = new Linear(WIDTH, WIDTH, { bias: false });
  }
  forward(x: Tensor, text: Tensor): Tensor {
    const [k] = remembered(text, this.keys, [this.keys], () => [this.keys.forward(text)]);
    return x.add(this.down.forward(linearGelu(this.up, x)).add(k as Tensor));
  }
  get bytes4(): number {
    return 4 * (2 * WIDTH * this.#size + this.#size + WIDTH + WIDTH * WIDTH);
  }
}
class Net extends Module {
  readonly first = new Linear(WIDTH, WIDTH);
  readonly blocks: readonly Block[];

  constructor(size = 4 * WIDTH, count = BLOCKS) {
    super();
    // not all of one size: the last is smaller
    this.blocks = Array.from({ length: count }, (_, i) => new Block(i === count - 1 ? WIDTH : size));
  }
  override runsBlocks(): readonly Module[] {
    return this.blocks;
  }
  forward(x: Tensor, text: Tensor): Tensor {
    return scope(() => throughBlocks(this.blocks, this.first.forward(x), (block, y) => block.forward(y, text)));
  }
}

const file = join(folder, "net.safetensors");
scope(() => {
  using generator = new Generator(3);
  using net = new Net().init(generator);
  saveSafetensors(file, net.stateDict());
});
const noise = (seed: number, dtype: DType): Tensor => {
  using generator = new Generator(seed);
  return scope(() => randn([5, WIDTH], { generator }).to({ dtype }));
};

type Where = "here" | "mapped" | "pinned";
/** The same weights in one of the three places. */
function opened(where: Where, source: Checkpoint, dtype: DType, packs = false): Net {
  const net = new Net();
  if (packs) net.blocks.forEach(packLinears);
  if (where !== "pinned") return net.load(source, { dtype, offload: where === "mapped" });
  // what an accelerator's weights go through, on a device where copies are done at once
  net.load(source, { dtype });
  const host = new PinnedBlocks(net.blocks, source, "cpu");
  for (const [i, block] of net.blocks.entries()) {
    for (const [name, parameter] of block.namedWeights()) {
      host.place(block, { parameter, key: `blocks.${i}.${name}`, dtype });
      parameter.dispose();
    }
    host.placed(block);
  }
  setBlockPolicy(net.blocks, host);
  const whole = net.dispose.bind(net);
  net.dispose = () => {
    host[Symbol.dispose]();
    whole();
  };
  return net;
}
function outputs(where: Where, dtype: DType, packs: boolean): number[][] {
  using source = openSafetensors(file);
  using net = opened(where, source, dtype, packs);
  using text = noise(1, dtype);
  return [2, 3, 2].map((seed) => scope(() => noGrad(() => net.forward(noise(seed, dtype), text).toNumbers())));
}

describe("weights that come and go", () => {
  for (const where of ["mapped", "pinned"] as const)
    for (const [dtype, packs] of [
      ["float32", false],
      ["bfloat16", false],
      ["bfloat16", true],
    ] as const)
      test(`${where}, ${dtype}${packs ? ", packed" : ""}: the numbers of weights that stay`, () => {
        const alive = liveTensors();
        expect(outputs(where, dtype, packs)).toEqual(outputs("here", dtype, packs));
        expect(liveTensors()).toBe(alive);
      });

  test("at most one converted block is here, and none between calls", () => {
    using source = openSafetensors(file);
    const before = allocatedBytes();
    using net = opened("mapped", source, "bfloat16");
    const resident = allocatedBytes() - before;
    expect(resident).toBe(2 * (WIDTH * WIDTH + WIDTH)); // `first` alone
    const [largest] = net.blocks as [Block];
    using text = noise(1, "bfloat16");
    scope(() => {
      const x = noise(2, "bfloat16");
      const start = allocatedBytes();
      resetPeakBytes();
      noGrad(() => net.forward(x, text));
      // and what is computed; two would be 2
      expect(peakBytes() - start).toBeLessThan(1.3 * (largest.bytes4 / 2));
    });
    expect(net.blocks.flatMap((block) => block.parameters()).some((p) => p.materialised)).toBe(false);
    expect(offloadedBytes(net)).toBe(resident + largest.bytes4);
  });

  test("mapped pages leave the process with their block", () => {
    const path = join(folder, "large.safetensors");
    scope(() => {
      using generator = new Generator(4);
      using net = new Net(40 * WIDTH, 12).init(generator);
      saveSafetensors(path, net.stateDict());
    });
    emptyCache();
    using source = openSafetensors(path);
    using net = new Net(40 * WIDTH, 12).load(source, { offload: true });
    const [largest] = net.blocks as [Block];
    using text = noise(1, "float32");
    const mapped: number[] = [];
    scope(() =>
      noGrad(() => {
        const x = noise(2, "float32");
        throughBlocks(net.blocks, x, (block, y) => {
          const z = block.forward(y, text);
          mapped.push(residentOf(path));
          return z;
        });
      }),
    );
    expect(Math.min(...mapped.slice(0, -1))).toBeGreaterThan(0.9 * largest.bytes4);
    expect(Math.max(...mapped)).toBeLessThan(1.5 * largest.bytes4);
    expect(residentOf(path)).toBeLessThan(0.1 * largest.bytes4);
  });

  test("what is kept of a text is kept, and a LoRA rides on a layer that is not here", () => {
    using source = openSafetensors(file);
    using away = opened("mapped", source, "float32");
    using here = opened("here", source, "float32");
    using text = noise(1, "float32");
    const products = (net: Net): number => {
      let count = 0;
      const before = ({ name }: { name: string }): void => {
        if (name === "aten::linear") count++;
      };
      withInterceptor({ before }, () => scope(() => void noGrad(() => net.forward(noise(2, "float32"), text))));
      return count;
    };
    const cold = products(away);
    expect(cold - products(away)).toBe(BLOCKS);
    using down = scope(() => ones([2, WIDTH]).mul(0.1));
    using up = ones([WIDTH, 2]);
    const adapted = (net: Net): number[] => {
      const layer = (net.blocks[1] as Block).keys;
      expect(layer.weight.dtype).toBe("float32");
      expect(layer.weight.shape).toEqual([WIDTH, WIDTH]);
      const additions = new Map([[layer, { down, up, scale: 0.5 }]]);
      return withLowRank(additions, () =>
        scope(() => noGrad(() => net.forward(noise(2, "float32"), text).toNumbers())),
      );
    };
    expect(adapted(away)).toEqual(adapted(here));
  });

  test("after an error in a block the next call is as if nothing had been", () => {
    for (const where of ["mapped", "pinned"] as const) {
      using source = openSafetensors(file);
      using net = opened(where, source, "float32");
      using text = noise(1, "float32");
      const run = (): number[] => scope(() => noGrad(() => net.forward(noise(2, "float32"), text).toNumbers()));
      const expected = run();
      const failing = (): void =>
        scope(() => {
          throughBlocks(net.blocks, noise(2, "float32"), (block, y, i) => {
            if (i === 2) throw new Error("stop");
            return block.forward(y, text);
          });
        });
      expect(failing).toThrow("stop");
      expect(run()).toEqual(expected);
    }
  });

  test("says what cannot be", () => {
    using source = openSafetensors(file);
    using net = opened("mapped", source, "float32");
    const { weight } = (net.blocks[0] as Block).up;
    expect(() => weight.add(1)).toThrow("blocks.0.up.weight is here only while its block runs");
    using flat = new Linear(WIDTH, WIDTH);
    expect(() => flat.load(source, { offload: true, strict: false })).toThrow("not made of blocks");
    setBlockKeeper({ loaded: () => undefined, gone: () => undefined });
    try {
      using kept = new Net();
      expect(() => kept.load(source, { offload: true })).toThrow("exclude each other");
    } finally {
      setBlockKeeper(null);
    }
  });
});

/** Bytes of a mapped file that are in this process's memory. */
function residentOf(path: string): number {
  let sum = 0;
  let isIt = false;
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isIt = line.endsWith(path);
    else if (isIt && line.startsWith("Rss:")) sum += Number(/\d+/.exec(line)?.[0]) * 1024;
  }
  return sum;
}
