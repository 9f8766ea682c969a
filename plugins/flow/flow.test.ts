import { describe, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allClose, Generator, keep, randn, scope, setThreads, type Tensor, tensor } from "../../native/index.ts";
import { type FlowConvention, type SampleRequest, WaverError } from "../index.ts";
import { readSchedulerConfig } from "./config.ts";
import { dpmSolver, dpmSolverOf } from "./dpmpp.ts";
import { euler } from "./euler.ts";
import {
  flowDPMSchedule,
  flowMatchEulerSchedule,
  flowUniPCSchedule,
  SchedulerConfig,
  shifted,
  waverSchedule,
} from "./schedule.ts";
import { solverOf, uniPC } from "./unipc.ts";

setThreads(1);
const unipcConfig = (more: object = {}): SchedulerConfig => SchedulerConfig.parse({ use_flow_sigmas: true, ...more });
const noise = (): Tensor => {
  using generator = new Generator(1);
  return randn([2, 4, 1, 3, 3], { generator });
};
const request = (latents: Tensor, numSteps: number, more: Partial<SampleRequest>): SampleRequest => ({
  latents,
  numSteps,
  convention: { timeScale: 1, predicts: "noise-data" },
  predict: (x) => x,
  signal: new AbortController().signal,
  ...more,
});

describe("schedules", () => {
  test("Waver's grid starts at noise, ends at data and is shifted once", () => {
    const { sigmas, timesteps } = waverSchedule({ numSteps: 4, shift: 3 });
    expect(Array.from(sigmas)).toEqual([1, 0.9, 0.75, 0.5, 0].map(Math.fround));
    expect(Array.from(timesteps)).toEqual([1000, 900, 750, 500].map(Math.fround));
    expect(shifted(0.5, 1)).toBe(0.5);
  });

  test("a setting that no sampler implements is refused, never ignored", () => {
    const config = SchedulerConfig.parse({ use_karras_sigmas: true });
    expect(() => flowMatchEulerSchedule(config, { numSteps: 2 })).toThrow(/use_karras_sigmas/);
    expect(() => flowUniPCSchedule(SchedulerConfig.parse({}), { numSteps: 2 })).toThrow(/flow matching only/);
    expect(() =>
      flowMatchEulerSchedule(SchedulerConfig.parse({ use_dynamic_shifting: true }), { numSteps: 2 }),
    ).toThrow(/needs mu/);
    const folder = mkdtempSync(join(tmpdir(), "scheduler-"));
    expect(() => readSchedulerConfig(folder)).toThrow(/no scheduler_config.json/);
    writeFileSync(
      join(folder, "scheduler_config.json"),
      '{"solver_order": 3, "lambda_min_clipped": -Infinity, "_x": "NaN"}',
    );
    expect(readSchedulerConfig(folder).solver_order).toBe(3);
    writeFileSync(join(folder, "scheduler_config.json"), "{");
    expect(() => readSchedulerConfig(folder)).toThrow(/is not JSON/);
    expect(() => dpmSolverOf(unipcConfig({ algorithm_type: "sde-dpmsolver++" }))).toThrow(/sde-dpmsolver/);
    writeFileSync(join(folder, "scheduler_config.json"), JSON.stringify({ solver_order: 9 }));
    expect(() => readSchedulerConfig(folder)).toThrow(/solver_order/);
  });
});

const samplers: Record<string, (request: SampleRequest) => Promise<Tensor>> = {
  euler: (r) => euler(r, waverSchedule(r)),
  "unipc 2": (r) => uniPC(r, flowUniPCSchedule(unipcConfig(), r), solverOf(unipcConfig())),
  "unipc 3": (r) =>
    uniPC(r, flowUniPCSchedule(unipcConfig({ solver_order: 3 }), r), solverOf(unipcConfig({ solver_order: 3 }))),
  "dpm++ 2": (r) => dpmSolver(r, flowDPMSchedule(unipcConfig(), r), dpmSolverOf(unipcConfig())),
  "dpm++ 3": (r) =>
    dpmSolver(r, flowDPMSchedule(unipcConfig({ solver_order: 3 }), r), dpmSolverOf(unipcConfig({ solver_order: 3 }))),
};

describe.each(Object.entries(samplers))("%s", (name, sample) => {
  test.each<FlowConvention["predicts"]>(["noise-data", "data-noise"])(
    "a straight flow ends at the data in any number of steps: %s",
    async (predicts) => {
      using start = noise();
      using data = tensor(2);
      // on a straight path x = (1 - t) data + t noise the velocity is noise - data at every t
      using velocity = predicts === "noise-data" ? start.sub(data) : data.sub(start);
      for (const numSteps of [1, 2, 7]) {
        using end = await sample(
          request(start, numSteps, { convention: { timeScale: 1, predicts }, predict: () => velocity.clone() }),
        );
        // UniPC starts at 1 - 1e-6, DPM-Solver++ at 0.999: what lies above is not integrated
        expect(allClose(end, data, { atol: name.startsWith("dpm") ? 1e-2 : 1e-4 })).toBe(true);
      }
    },
  );

  test("a killed sample goes on from what the last step left, to the same end", async () => {
    using start = noise();
    const predict: SampleRequest["predict"] = (x, t) => x.tanh().add(t.to("float32").view([-1, 1, 1, 1, 1]));
    using whole = await sample(request(start, 9, { predict }));
    let saved: { step: number; latents: Tensor; state: Record<string, Tensor> } | undefined;
    await sample(
      request(start, 9, {
        predict,
        async onStep({ step, latents, state = {} }) {
          if (step !== 4) return;
          saved = scope(() => ({
            step,
            latents: latents.clone(),
            state: Object.fromEntries(Object.entries(state).map(([key, value]) => [key, value.clone()])),
          }));
          throw new WaverError("cancelled", "killed");
        },
      }),
    ).catch((error: WaverError) => expect(error.code).toBe("cancelled"));
    const { step, latents, state } = saved as NonNullable<typeof saved>;
    using resumed = await sample(request(latents, 9, { predict, startStep: step + 1, state }));
    expect(allClose(resumed, whole, { rtol: 0, atol: 0 })).toBe(true);
    for (const each of [latents, ...Object.values(state)]) each.dispose();
  });

  test("whoever predicts is told the time of a step before it, and waited for", async () => {
    using start = noise();
    const heard: string[] = [];
    const end = await sample(
      request(start, 3, {
        async beforeStep({ step, t }) {
          await Bun.sleep(1);
          heard.push(`${step} ${t}`);
        },
        predict(x, _t, { step, t }) {
          heard.push(`predict ${step} ${t}`);
          return x.mul(0.1);
        },
      }),
    );
    end.dispose();
    expect(heard.filter((_, i) => i % 2 === 1)).toEqual(
      heard.filter((_, i) => i % 2 === 0).map((each) => `predict ${each}`),
    );
    expect(heard).toHaveLength(6);
  });

  test("an aborted signal stops before the next step", async () => {
    using start = noise();
    const abort = new AbortController();
    let steps = 0;
    const stopped = sample(
      request(start, 9, {
        signal: abort.signal,
        async onStep({ step }) {
          steps++;
          if (step === 2) abort.abort();
        },
      }),
    );
    expect(
      await stopped.then(
        () => "done",
        (error: WaverError) => error.code,
      ),
    ).toBe("cancelled");
    expect([name, steps]).toEqual([name, 3]);
  });

  test("the starting latents stay the caller's", async () => {
    using start = noise();
    using before = keep(start.clone());
    (await sample(request(start, 3, {}))).dispose();
    expect(allClose(start, before, { rtol: 0, atol: 0 })).toBe(true);
  });
});

test("the network is told whole timesteps by UniPC, exactly", async () => {
  using start = noise();
  const told: number[] = [];
  const schedule = flowUniPCSchedule(unipcConfig({ flow_shift: 3 }), { numSteps: 40 });
  const end = await uniPC(
    request(start, 40, {
      predict(x, t) {
        told.push(Math.fround((t.toNumbers()[0] as number) * 1000));
        return x.mul(0.1);
      },
    }),
    schedule,
    solverOf(unipcConfig()),
  );
  end.dispose();
  expect(told).toEqual(Array.from(schedule.timesteps));
});
