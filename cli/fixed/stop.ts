/** `waver stop`: ends the daemon in order; its running jobs go on when it is started again. */
import { toWaverError, WaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";

/** The daemon gives running jobs ten seconds to reach a unit's end. */
const MOST_MS = 30_000;

export class Stop extends WaverCommand {
  static override readonly summary = "stops the daemon; running jobs go on when it is started again";

  async run(): Promise<void> {
    const { flags } = await this.given();
    const say = (stopped: boolean, text: string): void =>
      void process.stdout.write(
        flags["json"] === true ? `${JSON.stringify({ type: "result", output: { stopped } })}\n` : `${text}\n`,
      );
    const client = this.client();
    const answers = async (): Promise<boolean> => {
      try {
        await client.status(AbortSignal.timeout(2_000));
        return true;
      } catch (error) {
        const { code } = toWaverError(error);
        if (code === "daemon_unreachable") return false;
        return true;
      }
    };
    if (!(await answers())) return say(false, "no daemon runs");
    await client.shutdown();
    const end = performance.now() + MOST_MS;
    while (performance.now() < end) {
      if (!(await answers())) return say(true, "the daemon has stopped");
      await Bun.sleep(50);
    }
    throw new WaverError("conflict", "the daemon is still stopping", { hint: "waver status shows what it waits for" });
  }
}
