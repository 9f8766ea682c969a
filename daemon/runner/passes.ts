/**
 * What the ranks of a job do together: passes of one network. The leading rank has the inputs and wants the outputs, the
 * others have the same network; all of them run this function at once.
 *
 * Passes go to replicas (ranks that share one sequence) in turn: with two replicas the positive and the negative prompt are
 * denoised side by side (CFG-parallel), and where there are more replicas than passes, so are the rows of a batch.
 */
import { cat, empty, type Mesh, noGrad, type ProcessGroup, scope, Tensor } from "../../native/index.ts";
import type { Denoiser, DenoiserInput } from "../../plugins/index.ts";

/** Inputs with numbers in place of tensors, and what the tensors are: plain data, as another process gets it. */
export interface Packed {
  readonly passes: readonly unknown[];
  readonly tensors: readonly { readonly shape: readonly number[]; readonly dtype: Tensor["dtype"] }[];
}

interface Slot {
  readonly $tensor: number;
}
const isSlot = (value: unknown): value is Slot => value !== null && typeof value === "object" && "$tensor" in value;

/** A tensor that occurs in several places is sent once. */
export function packed(passes: readonly DenoiserInput[]): { packed: Packed; tensors: Tensor[] } {
  const tensors: Tensor[] = [];
  const pack = (value: unknown): unknown => {
    if (value instanceof Tensor) {
      if (!tensors.includes(value)) tensors.push(value);
      return { $tensor: tensors.indexOf(value) } satisfies Slot;
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, pack(part)]));
  };
  const plain = passes.map(pack);
  return { packed: { passes: plain, tensors: tensors.map(({ shape, dtype }) => ({ shape, dtype })) }, tensors };
}

/** Rows of one pass, and the replica that computes them. */
interface Stretch {
  readonly pass: number;
  readonly from: number;
  readonly count: number;
  readonly replica: number;
}

/** Every pass in as many stretches of rows as keep all replicas busy. */
export function stretchesOf(rows: readonly number[], replicas: number): Stretch[] {
  const each = Math.max(1, Math.floor(replicas / rows.length));
  return rows
    .flatMap((count, pass) => {
      const parts = Math.min(each, count);
      return Array.from({ length: parts }, (_, i) => {
        const from = Math.floor((i * count) / parts);
        return { pass, from, count: Math.floor(((i + 1) * count) / parts) - from };
      });
    })
    .map((stretch, i) => ({ ...stretch, replica: i % replicas }));
}

/** Runs a network's forward under this rank's policies: its part of the tokens, its part of the weights. */
export type Forward = (network: Denoiser, input: DenoiserInput) => Tensor;

/** `given`: the tensors themselves on the leading rank, null elsewhere. Outputs, one a pass, come on the leading rank. */
export function runPasses(
  { world, mesh, forward }: { world: ProcessGroup; mesh: Mesh; forward: Forward },
  network: Denoiser,
  { passes, tensors }: Packed,
  given: readonly Tensor[] | null,
  device: string,
): Tensor[] {
  return scope(() =>
    noGrad(() => {
      const here = tensors.map(({ shape, dtype }, i) => {
        const tensor = given === null ? empty(shape, { dtype, device }) : (given[i] as Tensor).contiguous();
        world.broadcast(tensor, 0);
        return tensor;
      });
      const unpack = (value: unknown, rows: (x: Tensor) => Tensor): unknown =>
        isSlot(value)
          ? rows(here[value.$tensor] as Tensor)
          : value === null || typeof value !== "object"
            ? value
            : Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpack(part, rows)]));
      const input = (pass: number, rows: (x: Tensor) => Tensor): DenoiserInput =>
        unpack(passes[pass], rows) as DenoiserInput;

      const plan = stretchesOf(
        passes.map((_, pass) => input(pass, (x) => x).latents.size(0)),
        mesh.numReplicas,
      );
      const outputs: Tensor[][] = passes.map(() => []);
      const toCome: (() => void)[] = [];
      for (const [tag, { pass, from, count, replica }] of plan.entries()) {
        const part = input(pass, (x) => (x.size(0) === count ? x : x.narrow(0, from, count)));
        if (replica === mesh.replica) {
          // as precise as the latents, whichever replica it comes from
          const out = forward(network, part).to(part.latents.dtype).contiguous();
          if (world.rank === 0) outputs[pass]?.push(out);
          else if (mesh.sequence.rank === 0) world.send(out, 0, tag).wait();
        } else if (world.rank === 0) {
          const coming = empty(part.latents.shape, { dtype: part.latents.dtype, device });
          outputs[pass]?.push(coming);
          toCome.push(() => world.receive(coming, replica * mesh.sequence.size, tag).wait());
        }
      }
      for (const take of toCome) take();
      return world.rank === 0 ? outputs.map((rows) => (rows.length === 1 ? (rows[0] as Tensor) : cat(rows))) : [];
    }),
  );
}
