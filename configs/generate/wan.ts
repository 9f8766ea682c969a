/** Ways of sampling Wan checkpoints: what `waver generate --recipe configs/generate/wan.ts#NAME` starts from; flags win over it. */

/** Wan 2.1 as its authors sample it at 480p: 50 UniPC steps, shift 3, guidance 5 (Wan 4.5; 720p takes shift 5). */
const wan480p = {
  width: 832,
  height: 480,
  numFrames: 81,
  fps: 16,
  numSteps: 50,
  shift: 3,
  guide: { id: "cfg", scale: 5 },
};

/**
 * Four steps without guidance, for a LoRA distilled to that (step and CFG distillation: LightX2V's, CausVid, AccVideo); it
 * must be given: `--lora lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64.safetensors`. Guidance is in the LoRA: a scale of 1
 * leaves the second pass out, so that this costs 4 passes where the usual 50 steps cost 100. Shift 5 and Euler steps are what
 * those LoRAs were distilled for.
 */
const fourSteps = {
  ...wan480p,
  numSteps: 4,
  shift: 5,
  sampler: { id: "euler" },
  guide: { id: "cfg", scale: 1 },
};

export default { wan480p, fourSteps };
