/** Samplers of flow matching. */
import { definePlugin, provide, z } from "../index.ts";

const options = z.strictObject({
  path: z.string().optional().describe("folder with a scheduler_config.json; Waver's own grid without one"),
  config: z
    .record(z.string(), z.unknown())
    .optional()
    .describe("what a scheduler_config.json would say, for models that come without one"),
  mu: z.number().optional().describe("shift by resolution, for schedulers with use_dynamic_shifting"),
  sigmas: z
    .array(z.number().min(0).max(1))
    .min(1)
    .optional()
    .describe("explicit sigmas before shifting, largest first; their number is the number of steps"),
});

export default definePlugin({
  name: "flow",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("sample", {
      id: "euler",
      summary: "Euler steps: on Waver's grid, or as FlowMatchEulerDiscreteScheduler places them",
      source: "Waver 4.2; Esser et al. 2024 (SD3), arXiv 2403.03206",
      runs: "device",
      options,
      traits: { classes: ["WaverFlowScheduler", "FlowMatchEulerDiscreteScheduler"] },
      async run(request, { options }) {
        const { readSchedulerConfig } = await import("./config.ts");
        const { flowMatchEulerSchedule, waverSchedule } = await import("./schedule.ts");
        const { euler } = await import("./euler.ts");
        const config = readSchedulerConfig(options.path, options.config);
        const how = { numSteps: request.numSteps, shift: request.shift, mu: options.mu, sigmas: options.sigmas };
        const schedule =
          config._class_name === "FlowMatchEulerDiscreteScheduler"
            ? flowMatchEulerSchedule(config, how)
            : waverSchedule({ ...how, shift: how.shift ?? config.shift });
        return euler(request, schedule);
      },
    }),
    provide("sample", {
      id: "unipc",
      summary: "UniPC, a predictor and corrector of order 1 to 3: fewer steps than Euler for the same picture",
      source: "Zhao et al. 2023, arXiv 2302.04867; as diffusers runs it for Wan",
      runs: "device",
      options,
      traits: { classes: ["UniPCMultistepScheduler"] },
      async run(request, { options }) {
        const { readSchedulerConfig } = await import("./config.ts");
        const { flowUniPCSchedule } = await import("./schedule.ts");
        const { solverOf, uniPC } = await import("./unipc.ts");
        const config = readSchedulerConfig(options.path, options.config);
        const schedule = flowUniPCSchedule(config, {
          numSteps: request.numSteps,
          shift: request.shift,
          mu: options.mu,
          sigmas: options.sigmas,
        });
        return uniPC(request, schedule, solverOf(config));
      },
    }),
    provide("sample", {
      id: "dpmpp",
      summary: "DPM-Solver++, a multistep solver of order 1 to 3 on data predictions",
      source: "Lu et al. 2022, arXiv 2211.01095; as diffusers runs it for flow matching",
      runs: "device",
      options,
      traits: { classes: ["DPMSolverMultistepScheduler"] },
      async run(request, { options }) {
        const { readSchedulerConfig } = await import("./config.ts");
        const { flowDPMSchedule } = await import("./schedule.ts");
        const { dpmSolver, dpmSolverOf } = await import("./dpmpp.ts");
        const config = readSchedulerConfig(options.path, options.config);
        const schedule = flowDPMSchedule(config, {
          numSteps: request.numSteps,
          shift: request.shift,
          mu: options.mu,
          sigmas: options.sigmas,
        });
        return dpmSolver(request, schedule, dpmSolverOf(config));
      },
    }),
  ],
});
