// Random numbers come from an explicit generator only; there is no global one to seed.
import { addon } from "./addon.ts";
import { EngineError } from "./errors.ts";
import { Tensor } from "./tensor.ts";

const TWO_32 = 0x1_0000_0000;

/** The same stream as `torch.Generator(device).manual_seed(seed)`, bit for bit. */
export class Generator implements Disposable {
  /** @internal */
  id: number;
  readonly device: string;

  constructor(seed: number | bigint, device = "cpu") {
    const s = BigInt(seed);
    if (s < 0n || s >= 1n << 64n) throw new EngineError("op_arguments", `seed ${seed} is outside 0 .. 2^64 - 1`);
    this.device = device;
    this.id = addon().newGenerator(Number(s / BigInt(TWO_32)), Number(s % BigInt(TWO_32)), device);
    net.register(this, this.id, this);
  }

  /** The whole state, for an exact resume. */
  getState(): Uint8Array {
    const t = new Tensor(addon().generatorState(this.id));
    try {
      return t.bytes();
    } finally {
      t.dispose();
    }
  }

  setState(state: Uint8Array): void {
    const native = addon();
    const handle = native.fromBytes(state, "uint8", [state.byteLength]);
    try {
      native.setGeneratorState(this.id, handle);
    } finally {
      native.free(handle);
    }
  }

  dispose(): void {
    if (this.id === 0) return;
    net.unregister(this);
    addon().freeGenerator(this.id);
    this.id = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const net = new FinalizationRegistry<number>((id) => addon().freeGenerator(id));
