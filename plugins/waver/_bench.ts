import { AdamW, clipGradNorm, Generator, mseLoss, ones, randn, rand, scope, setThreads, withInterceptor, withMatmulDtype, zeros, Ema, type Tensor } from "/work/main/native/index.ts";
import { WaverTransformer } from "/work/main/plugins/waver/model.ts";
import { WaverParams } from "/work/main/plugins/waver/params.ts";
setThreads(+(process.env.T ?? 2));
const D = +(process.env.D ?? 192), H = +(process.env.H ?? 6), M=+(process.env.M??2), N=+(process.env.N??3);
const p = WaverParams.parse({ num_dual: M, num_single: N, num_heads: H, head_dim: D/H, in_channels: 36, out_channels: 16, patch_size: [1,1,1], t5_dim: 128, qwen_dim: null, max_t5: 32, pos_sizes: [8, 16, 16] });
using g = new Generator(0);
const net = new WaverTransformer(p).init(g); net.requiresGrad_();
console.log("params", net.numParameters());
const B = +(process.env.B ?? 16), L = 12;
const x0 = randn([B,16,5,8,8],{generator:g}), n = randn([B,16,5,8,8],{generator:g}), t = rand([B],{generator:g});
const known = { latents: zeros([B,16,5,8,8]), mask: zeros([B,4,5,8,8]) };
const states = randn([B,L,128],{generator:g});
const m = ones([B,L]); m.narrow(1,8,4).narrow(0,0,8).fill_(0);
const mask = m.to("bool");
const opt = new AdamW(net.namedParameters(), { lr: 1e-3 }); const ema = new Ema(net.namedParameters(), .99);
const times: Record<string, number[]> = { fwd: [], bwd: [], opt: [], all: [] };
const ops = new Map<string,[number,number]>(); let t0=0;
const policy = process.env.P === "f32" ? null : { dtype: "bfloat16" as const, result: (process.env.R ?? "input") as "input" };
function step(prof: boolean) {
  const a = performance.now(); let b=0,c=0;
  scope(() => {
    const run = () => { const v = net.forward({ latents: x0.lerp(n, t.reshape([-1,1,1,1,1])), t, known, t5: { states, mask }, qwen: null }); return mseLoss(v.float(), n.sub(x0)); };
    const f = () => withMatmulDtype(policy, run);
    const loss = prof ? withInterceptor({ before() { t0 = performance.now(); }, after(op) { const d = performance.now()-t0; const e = ops.get(op.name) ?? [0,0]; e[0]+=d; e[1]++; ops.set(op.name, e); } }, f) : f();
    b = performance.now(); loss.backward(); c = performance.now();
  });
  const norm = clipGradNorm(net.namedParameters(), 1); opt.step(); ema.update(); opt.zeroGrad();
  const d = performance.now(); times.fwd!.push(b-a); times.bwd!.push(c-b); times.opt!.push(d-c); times.all!.push(d-a);
}
for (let i=0;i<3;i++) step(false);
for (const k in times) times[k] = [];
for (let i=0;i<8;i++) step(false);
const med=(x:number[])=>x.toSorted((a,b)=>a-b)[x.length>>1]!;
console.log(Object.fromEntries(Object.entries(times).map(([k,v])=>[k,[+med(v).toFixed(0), +Math.min(...v).toFixed(0)]])));
for(let i=0;i<3;i++) step(true);
console.log([...ops].sort((a,b)=>b[1][0]-a[1][0]).slice(0,18).map(([k,[d,c]])=>`${k} ${(d/3).toFixed(1)}ms x${c/3}`).join("\n"));
