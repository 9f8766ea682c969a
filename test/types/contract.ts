/** What the contract must refuse at compile time, and what it must infer. Checked by the type checker, never run. */
import {
  type Context,
  defineOperation,
  definePlugin,
  type In,
  type Out,
  provide,
  type Used,
  z,
} from "../../plugins/index.ts";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const holds = <T extends true>(): T | undefined => undefined;

const view = { width: 8, height: 8, fit: "stretch", rate: 1, format: "gray8", batch: 1 } as const;
const options = z.object({ scale: z.number().default(2), name: z.string().optional() });

// Options, state and input are inferred from the declaration.
provide("score", {
  id: "a",
  summary: "s",
  runs: "worker",
  options,
  traits: { view, measures: ["m"] },
  load: async () => ({ open: 3, [Symbol.dispose]: () => undefined }),
  run: async ({ clip }, { options, state }) => {
    holds<Same<typeof options.scale, number>>();
    holds<Same<typeof options.name, string | undefined>>();
    holds<Same<typeof state.open, number>>();
    return { m: clip.end * options.scale };
  },
});

// @ts-expect-error a scorer says which measures it returns
provide("score", { id: "a", summary: "s", runs: "worker", options, traits: { view }, run: async () => ({}) });
provide("score", {
  id: "a",
  summary: "s",
  runs: "worker",
  options,
  traits: { view, measures: ["m"] },
  // @ts-expect-error measures are numbers
  run: async () => ({ m: "high" }),
});
// @ts-expect-error there is no such hook
provide("scores", { id: "a", summary: "s", runs: "worker", options, traits: {}, run: async () => ({}) });
// @ts-expect-error a provider runs on the device or in a worker
provide("rewrite", { id: "a", summary: "s", runs: "gpu", options, traits: {}, run: async (prompt) => prompt });
provide("rewrite", {
  id: "a",
  summary: "s",
  runs: "worker",
  // @ts-expect-error options are an object schema
  options: z.string(),
  traits: {},
  run: async (prompt) => prompt,
});
provide("caption", {
  id: "a",
  summary: "s",
  runs: "worker",
  options,
  traits: { view: null },
  // @ts-expect-error a captioner that has nothing to say returns null, not undefined
  run: async () => undefined,
});
provide("caption", { id: "a", summary: "s", runs: "worker", options, traits: { view: null }, run: async () => null });
provide("rewrite", {
  id: "a",
  summary: "s",
  runs: "worker",
  options,
  traits: {},
  // @ts-expect-error a load that promises a state must be disposable
  load: async () => ({ open: 1 }),
  run: async (prompt) => prompt,
});

// Operations see their input after defaults.
defineOperation({
  kind: "job",
  summary: "s",
  runs: "worker",
  input: z.object({ n: z.int().default(1) }),
  output: z.object({ twice: z.int() }),
  slots: { score: { hook: "score", summary: "s" } },
  run: async ({ n }) => ({ twice: 2 * n }),
});
defineOperation({
  kind: "job",
  summary: "s",
  runs: "worker",
  input: z.object({}),
  output: z.object({ n: z.int() }),
  slots: {},
  // @ts-expect-error the output is what was promised
  run: async () => ({ n: "1" }),
});
defineOperation({
  kind: "job",
  summary: "s",
  runs: "worker",
  input: z.object({}),
  output: z.null(),
  // @ts-expect-error a slot names a hook
  slots: { a: { hook: "nothing", summary: "s" } },
  run: async () => null,
});

// @ts-expect-error a plugin says for which contract it was written
definePlugin({ name: "a", version: "1.0.0", config: z.strictObject({}), provides: [] });

/** A provider in use is called with its hook's input and can be let go. */
export async function used(ctx: Context): Promise<void> {
  using score = await ctx.use("score", "a", { scale: 3 });
  holds<Same<typeof score, Used<"score">>>();
  holds<Same<Out<"score">, Record<string, number>>>();
  holds<Same<In<"rewrite">["text"], string>>();
  // @ts-expect-error a prompt is no clip
  await score({ text: "a red ball" });
}
