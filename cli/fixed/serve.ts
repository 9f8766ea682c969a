/** `waver serve`: the daemon in the foreground, as a service manager wants it. */
import { join } from "node:path";
import { type ErrorBody, WaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";

type FirstLine =
  | { readonly ready: true; readonly pid: number; readonly version: string; readonly addresses: readonly string[] }
  | { readonly ready: false; readonly error: ErrorBody };

export class Serve extends WaverCommand {
  static override readonly summary = "runs the daemon in the foreground until Ctrl-C";
  static override readonly description =
    "Not needed for work on this machine: every command starts the daemon when none runs. Running jobs survive its end and go on at the next start.";

  async run(): Promise<void> {
    const { flags } = await this.given();
    const home = this.target.home;
    const main = join(import.meta.dir, "..", "..", "daemon", "main.ts");
    const child = Bun.spawn([process.execPath, main, ...(home === null ? [] : ["--home", home])], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    // A terminal sends Ctrl-C to both; the daemon stops in order and this waits for it.
    process.on("SIGINT", () => undefined);
    for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
    let rest = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#said(line, flags["json"] === true);
    }
    const code = await child.exited;
    if (code !== 0)
      throw new WaverError("internal", `the daemon ended with code ${code}`, {
        hint: "its log is in the folder `log` of its home",
      });
  }

  #said(line: string, json: boolean): void {
    if (!line.startsWith('{"ready":')) return void process.stdout.write(`${line}\n`);
    const first = JSON.parse(line) as FirstLine;
    if (!first.ready) throw WaverError.fromBody(first.error);
    if (json) return void process.stdout.write(`${line}\n`);
    process.stdout.write(
      `the daemon is ready (process ${first.pid}, version ${first.version})\n${first.addresses.map((each) => `  ${each}\n`).join("")}  Ctrl-C stops it\n`,
    );
  }
}
