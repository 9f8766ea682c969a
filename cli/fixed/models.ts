/** `waver models ...`: the operations models-*. */
import type { Command } from "@oclif/core";
import type { OperationsDoc } from "../../daemon/wire.ts";
import { commandOf } from "../operation.ts";

const PREFIX = "models-";

export function models(docs: OperationsDoc | null): Readonly<Record<string, Command.Class>> {
  const own = docs?.operations.filter(({ name }) => name.startsWith(PREFIX)) ?? [];
  return Object.fromEntries(
    own.map((operation) => [
      `models:${operation.name.slice(PREFIX.length)}`,
      commandOf(operation, docs as OperationsDoc),
    ]),
  );
}
