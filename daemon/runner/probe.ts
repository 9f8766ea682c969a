/**
 * Prints what the engine says about itself as one JSON line: run by the doctor as a child, so that a broken engine
 * takes down this process and not the one that answers.
 */
import { toWaverError } from "../../plugins/errors.ts";

try {
  const native = await import("../../native/index.ts");
  process.stdout.write(
    `${JSON.stringify({ ok: true, cpu: native.cpuCapability(), devices: native.deviceCount(), threads: native.getThreads() })}\n`,
  );
} catch (error) {
  const { message, hint } = toWaverError(error);
  process.stdout.write(`${JSON.stringify({ ok: false, message, hint })}\n`);
}
process.exit(0);
