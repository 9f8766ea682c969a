/** `waver client types`: declarations of all operations for programs in TypeScript. */
import { join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";

export class ClientTypes extends WaverCommand {
  static override readonly summary = "prints TypeScript declarations of all operations, for use with waver/client";
  static override readonly examples = ["$ waver client types > waver.d.ts"];

  async run(): Promise<void> {
    await this.given();
    const { home, url } = this.target;
    if (url !== null)
      throw new WaverError("invalid_input", "the declarations are made from the daemon of this machine", {
        hint: "leave out --url and WAVER_URL",
      });
    const program = join(import.meta.dir, "..", "..", "daemon", "client.ts");
    const child = Bun.spawn([process.execPath, program, "--types"], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      env: { ...process.env, ...(home === null ? {} : { WAVER_HOME: home }) },
    });
    if ((await child.exited) !== 0) throw new WaverError("internal", "the declarations could not be made");
  }
}
