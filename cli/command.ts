/** What all commands share: the global flags, the daemon they talk to, errors in one shape. */
import { Command, Flags, type Interfaces } from "@oclif/core";
import { type Client, createClient } from "../daemon/client.ts";
import { WaverError } from "../plugins/errors.ts";
import type { Token } from "./body.ts";
import { commandLineError } from "./failure.ts";
import { clientOptions, type Target, targetOf } from "./target.ts";

const GLOBAL = "global";

export const globalFlags = {
  json: Flags.boolean({ helpGroup: GLOBAL, description: "one JSON object a line: events, then the result" }),
  url: Flags.string({ helpGroup: GLOBAL, helpValue: "<url>", description: "a daemon elsewhere [env: WAVER_URL]" }),
  token: Flags.string({
    helpGroup: GLOBAL,
    helpValue: "<text>",
    description: "token of that daemon [env: WAVER_TOKEN]",
  }),
  home: Flags.string({
    helpGroup: GLOBAL,
    helpValue: "<folder>",
    description: "home of the daemon: journal, store, plugins [env: WAVER_HOME]",
  }),
};

/** Flags of commands that watch a job. */
export const watchFlags = {
  "cancel-on-interrupt": Flags.boolean({
    helpGroup: "job",
    description:
      "Ctrl-C cancels the job. Without it Ctrl-C leaves the job running; on a terminal a second Ctrl-C within 2 s cancels it",
  }),
  verbose: Flags.boolean({ helpGroup: "job", description: "also show the job's own messages" }),
};

export interface Parsed {
  readonly flags: Readonly<Record<string, unknown>>;
  readonly args: Readonly<Record<string, unknown>>;
  readonly raw: readonly Token[];
}

export abstract class WaverCommand extends Command {
  static override readonly flags: Interfaces.FlagInput = globalFlags;

  protected get target(): Target {
    return targetOf(this.argv);
  }

  protected client(): Client {
    return createClient(clientOptions(this.target));
  }

  /** A client whose daemon answers; started when it is this machine's and none runs. */
  protected async daemon(): Promise<Client> {
    const client = this.client();
    await client.ensureDaemon();
    return client;
  }

  protected async given(): Promise<Parsed> {
    const own = this.ctor as typeof WaverCommand;
    const name = own.id.replaceAll(":", " ");
    try {
      return (await this.parse(own)) as Parsed;
    } catch (error) {
      throw commandLineError(error, name, Object.keys(own.flags));
    }
  }

  /** Errors are printed in index.ts: here they only pass. */
  protected override async catch(error: Error): Promise<never> {
    throw error;
  }
}

/** A word that the command cannot do without. */
export function need(args: Readonly<Record<string, unknown>>, name: string, usage: string): string {
  const value = args[name];
  if (typeof value === "string" && value !== "") return value;
  throw new WaverError("invalid_input", `${name} is missing`, { hint: usage });
}
