/** What goes into a provider and what comes out of it, checked at the edge. */
import { type AnyProvider, type HookName, hooks, type In, type Out, WaverError } from "../../plugins/index.ts";
import { didYouMean } from "../plugins/nearest.ts";
import type { Culprit } from "./blame.ts";

export function parseOptions(
  provider: AnyProvider,
  options: Readonly<Record<string, unknown>>,
  { hook, id }: Culprit,
): Record<string, unknown> {
  // A pick is handed on whole: its id is not an option.
  const { id: _, ...given } = options;
  const known = Object.keys(provider.options.shape);
  const unknown = Object.keys(given).find((key) => !known.includes(key));
  if (unknown !== undefined)
    throw new WaverError("unknown_option", `${hook} ${id} has no option ${unknown}`, {
      hint: didYouMean(unknown, known),
    });
  const parsed = provider.options.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new WaverError(
    "invalid_input",
    `${hook} ${id}: ${issue?.path.join(".") ?? "options"}: ${issue?.message ?? "invalid"}`,
  );
}

/** Values that cross processes are checked at every edge; values beside tensors by type only. */
export function checkInput<H extends HookName>(hook: H, input: In<H>): In<H> {
  if (!hooks[hook].portable) return input;
  const parsed = hooks[hook].input.safeParse(input);
  if (!parsed.success)
    throw new WaverError(
      "invalid_input",
      `the input of ${hook} is wrong: ${parsed.error.issues[0]?.path.join(".") ?? ""} ${parsed.error.issues[0]?.message ?? ""}`,
    );
  return parsed.data as In<H>;
}

export function checkOutput<H extends HookName>(hook: H, output: unknown): Out<H> {
  if (!hooks[hook].portable) return output as Out<H>;
  const parsed = hooks[hook].output.safeParse(output);
  if (!parsed.success)
    throw new WaverError(
      "plugin_failed",
      `it returned something else than ${hook} promises: ${parsed.error.issues[0]?.path.join(".") ?? ""} ${parsed.error.issues[0]?.message ?? ""}`,
    );
  return parsed.data as Out<H>;
}
