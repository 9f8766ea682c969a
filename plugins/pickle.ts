/**
 * Reads the data in a pickle without running it.
 *
 * A pickle is a program for a stack machine, and Python's own reader lets that program call any function by name.
 * This one knows the opcodes that build plain data, and calls nothing: a name resolves only when the caller's
 * `allow` list has it, and what it then builds is decided here. Everything else is refused with the opcode or the
 * name in the message. Containers are Maps and arrays, so a key such as `__proto__` is only a key.
 */
import { WaverError } from "./errors.ts";

/** A name that a pickle asks for, e.g. `torch._utils._rebuild_tensor_v2`; inert until the machine applies it. */
export class PickleName {
  constructor(readonly name: string) {}
}

export type PickleDict = Map<PickleValue, PickleValue>;
export type PickleValue = null | boolean | number | bigint | string | PickleValue[] | PickleDict | PickleName | object;

export interface PickleRules {
  /** What a name stands for when it is applied to arguments; null refuses the call. The names are the whole allowlist. */
  readonly allow: ReadonlyMap<string, ((args: readonly PickleValue[]) => PickleValue) | null>;
  /** What a persistent id stands for (torch: a storage). */
  readonly persistent?: (id: PickleValue) => PickleValue;
}

const refused = (what: string): WaverError =>
  new WaverError("checkpoint_invalid", `this pickle was refused: ${what}`, {
    hint: "only tensors and plain data are read from .pth files, and nothing in them is ever run; ask the author for a safetensors file",
  });

/** Bytes of a pickle, with every read checked against the end. */
class Reader {
  position: number;
  readonly #view: DataView;
  readonly #text = new TextDecoder("utf-8", { fatal: true });

  constructor(
    readonly bytes: Uint8Array,
    start: number,
  ) {
    this.position = start;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #advance(count: number): number {
    const at = this.position;
    if (count > this.bytes.length - at)
      throw new WaverError("checkpoint_truncated", "the pickle ends in the middle of a value");
    this.position = at + count;
    return at;
  }

  u8 = (): number => this.#view.getUint8(this.#advance(1));
  u16 = (): number => this.#view.getUint16(this.#advance(2), true);
  i32 = (): number => this.#view.getInt32(this.#advance(4), true);
  u32 = (): number => this.#view.getUint32(this.#advance(4), true);
  f64 = (): number => this.#view.getFloat64(this.#advance(8), false);

  u64(): number {
    const value = this.#view.getBigUint64(this.#advance(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw refused("a length is beyond any file");
    return Number(value);
  }

  take(count: number): Uint8Array {
    const at = this.#advance(count);
    return this.bytes.subarray(at, at + count);
  }

  string(count: number): string {
    try {
      return this.#text.decode(this.take(count));
    } catch (error) {
      if (error instanceof WaverError) throw error;
      throw refused("a string is not UTF-8");
    }
  }

  line(): string {
    const end = this.bytes.indexOf(0x0a, this.position);
    if (end < 0) throw new WaverError("checkpoint_truncated", "the pickle ends in the middle of a name");
    const text = this.string(end - this.position);
    this.position = end + 1;
    return text;
  }
}

/** Little-endian two's complement, as LONG1 stores it. */
function longValue(bytes: Uint8Array): bigint | number {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] as number);
  if (bytes.length > 0 && (bytes[bytes.length - 1] as number) & 0x80) value -= 1n << BigInt(8 * bytes.length);
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

const MARK = Symbol("mark");
type Slot = PickleValue | typeof MARK;

class Machine {
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, PickleValue>();

  constructor(
    readonly input: Reader,
    readonly rules: PickleRules,
  ) {}

  #push(value: Slot): void {
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    if (this.#stack.length === 0) throw refused("it takes a value from an empty stack");
    const value = this.#stack.pop() as Slot;
    if (value === MARK) throw refused("a mark stands where a value should be");
    return value;
  }

  #top(): PickleValue {
    const value = this.#stack[this.#stack.length - 1];
    if (value === undefined || value === MARK) throw refused("a container is missing from the stack");
    return value;
  }

  #toMark(): PickleValue[] {
    const at = this.#stack.lastIndexOf(MARK);
    if (at < 0) throw refused("a mark is missing from the stack");
    const values = this.#stack.splice(at).slice(1);
    return values as PickleValue[];
  }

  #tuple(count: number): void {
    const values: PickleValue[] = [];
    for (let i = 0; i < count; i++) values.unshift(this.#pop());
    this.#push(values);
  }

  #setItems(pairs: readonly PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof Map)) throw refused("items are set on something that is not a dictionary");
    if (pairs.length % 2 !== 0) throw refused("a dictionary has a key without a value");
    for (let i = 0; i < pairs.length; i += 2) dict.set(pairs[i] as PickleValue, pairs[i + 1] as PickleValue);
  }

  #append(values: readonly PickleValue[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw refused("values are appended to something that is not a list");
    for (const value of values) list.push(value);
  }

  #name(module: string, name: string): void {
    const full = `${module}.${name}`;
    if (!this.rules.allow.has(full))
      throw refused(`it asks for ${JSON.stringify(full.slice(0, 120))}, which is not on the list of tensor types`);
    this.#push(new PickleName(full));
  }

  #reduce(): void {
    const args = this.#pop();
    const callee = this.#pop();
    if (!(callee instanceof PickleName) || !Array.isArray(args)) throw refused("it calls something that is not a name");
    const build = this.rules.allow.get(callee.name);
    if (!build) throw refused(`it calls ${callee.name}, which may only be named`);
    this.#push(build(args));
  }

  /** BUILD sets attributes; a state dictionary has `_metadata`, which no tensor needs. Any other object is refused. */
  #build(): void {
    const state = this.#pop();
    if (!(this.#top() instanceof Map) || !(state instanceof Map))
      throw refused("it sets the state of an object that is not a dictionary");
  }

  #memoGet(key: number): void {
    const value = this.#memo.get(key);
    if (value === undefined) throw refused("it recalls a value that was never stored");
    this.#push(value);
  }

  #persistent(): void {
    if (!this.rules.persistent) throw refused("it holds a persistent id");
    this.#push(this.rules.persistent(this.#pop()));
  }

  run(): PickleValue {
    const { input } = this;
    for (;;) {
      const op = input.u8();
      switch (op) {
        case 0x80: {
          // PROTO
          const version = input.u8();
          if (version < 2 || version > 5) throw refused(`pickle protocol ${version} is not read (2 to 5 are)`);
          break;
        }
        case 0x95:
          input.u64();
          break; // FRAME: a hint about reading ahead
        case 0x2e:
          return this.#pop(); // STOP
        case 0x28:
          this.#push(MARK);
          break;
        case 0x4e:
          this.#push(null);
          break; // NONE
        case 0x88:
          this.#push(true);
          break;
        case 0x89:
          this.#push(false);
          break;
        case 0x4a:
          this.#push(input.i32());
          break; // BININT
        case 0x4b:
          this.#push(input.u8());
          break; // BININT1
        case 0x4d:
          this.#push(input.u16());
          break; // BININT2
        case 0x8a:
          this.#push(longValue(input.take(input.u8())));
          break; // LONG1
        case 0x47:
          this.#push(input.f64());
          break; // BINFLOAT
        case 0x58:
          this.#push(input.string(input.u32()));
          break; // BINUNICODE
        case 0x8c:
          this.#push(input.string(input.u8()));
          break; // SHORT_BINUNICODE
        case 0x8d:
          this.#push(input.string(input.u64()));
          break; // BINUNICODE8
        case 0x7d:
          this.#push(new Map());
          break; // EMPTY_DICT
        case 0x5d:
          this.#push([]);
          break; // EMPTY_LIST
        case 0x29:
          this.#push([]);
          break; // EMPTY_TUPLE
        case 0x74:
          this.#push(this.#toMark());
          break; // TUPLE
        case 0x85:
          this.#tuple(1);
          break;
        case 0x86:
          this.#tuple(2);
          break;
        case 0x87:
          this.#tuple(3);
          break;
        case 0x61:
          this.#append([this.#pop()]);
          break; // APPEND
        case 0x65:
          this.#append(this.#toMark());
          break; // APPENDS
        case 0x73: {
          // SETITEM
          const value = this.#pop();
          this.#setItems([this.#pop(), value]);
          break;
        }
        case 0x75:
          this.#setItems(this.#toMark());
          break; // SETITEMS
        case 0x71:
          this.#memo.set(input.u8(), this.#top());
          break; // BINPUT
        case 0x72:
          this.#memo.set(input.u32(), this.#top());
          break; // LONG_BINPUT
        case 0x94:
          this.#memo.set(this.#memo.size, this.#top());
          break; // MEMOIZE
        case 0x68:
          this.#memoGet(input.u8());
          break; // BINGET
        case 0x6a:
          this.#memoGet(input.u32());
          break; // LONG_BINGET
        case 0x63: {
          // GLOBAL
          const module = input.line();
          this.#name(module, input.line());
          break;
        }
        case 0x93: {
          // STACK_GLOBAL
          const name = this.#pop();
          const module = this.#pop();
          if (typeof name !== "string" || typeof module !== "string")
            throw refused("it asks for a name that is not text");
          this.#name(module, name);
          break;
        }
        case 0x52:
          this.#reduce();
          break; // REDUCE
        case 0x62:
          this.#build();
          break; // BUILD
        case 0x51:
          this.#persistent();
          break; // BINPERSID
        default:
          throw refused(
            `opcode 0x${op.toString(16).padStart(2, "0")} is not on the list of opcodes that build plain data`,
          );
      }
    }
  }
}

/** One pickle that starts at `start` -> its value and the position after it. */
export function readPickle(bytes: Uint8Array, start: number, rules: PickleRules): { value: PickleValue; end: number } {
  const input = new Reader(bytes, start);
  const value = new Machine(input, rules).run();
  return { value, end: input.position };
}
