/** `waver open`: an address of the daemon's pages that works once, in one browser. */
import { WaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";

export class Open extends WaverCommand {
  static override readonly summary =
    "prints an address of the daemon's pages for a browser; it works once, for a minute";

  async run(): Promise<void> {
    const { flags } = await this.given();
    const client = await this.daemon();
    const { listeners } = await client.status();
    const base = listeners.find((each) => each.startsWith("http://"));
    if (base === undefined)
      throw new WaverError(
        "conflict",
        "the daemon has no address that a browser reaches: it listens on its socket alone",
        {
          hint: "waver stop, then WAVER_TCP_PORT=7999 waver open; or `tcp: { port: 7999 }` in the configuration",
        },
      );
    const answer = (await (await client.request("POST", "/v1/session/tickets", { body: {} })).json()) as {
      path: string;
      seconds: number;
    };
    const url = base + answer.path;
    if (flags["json"] === true)
      process.stdout.write(`${JSON.stringify({ type: "result", output: { url, seconds: answer.seconds } })}\n`);
    else process.stdout.write(`${url}\n`);
  }
}
