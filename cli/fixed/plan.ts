/** `waver plan VERB ...`: the operations plan-*, with the flags of the verb that they plan. */
import type { Command } from "@oclif/core";
import type { OperationsDoc } from "../../daemon/wire.ts";
import { commandOf } from "../operation.ts";

const PREFIX = "plan-";

export function plans(docs: OperationsDoc | null): Readonly<Record<string, Command.Class>> {
  if (docs === null) return {};
  const made = docs.operations.filter(({ name }) => name.startsWith(PREFIX));
  return Object.fromEntries(made.map((each) => [`plan:${each.name.slice(PREFIX.length)}`, commandOf(each, docs)]));
}
