"""The reference's side of `npm run bench`: PyTorch and diffusers, one command a line on stdin, one JSON answer a line.

Commands: {"do": "start", "threads": n, "clock": "wall" | "cpu"}, {"do": "dit" | "vae" | "ops", "folder": ...} prepares, {"do": "run", "what": ...}
times one repetition. Inputs and weights are made here, from a seed, and left as safetensors for the other side.
"""

import importlib.metadata
import json
import sys
import time

import torch
from safetensors.torch import save_file

jobs = {}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


clock = time.perf_counter


def timed(job):
    start = clock()
    job()
    return clock() - start


def start(threads, clock):
    globals()["clock"] = time.process_time if clock == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    names = ["torch", "diffusers", "transformers", "safetensors"]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {"versions": versions, "threads": torch.get_num_threads(), "onednn": torch.backends.mkldnn.is_available()}


def prepare_dit(folder, config, latents, text, timestep):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = WanTransformer3DModel(**config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(f"{folder}/transformer")
    x, states = torch.randn(latents), torch.randn(text)
    t = torch.tensor([float(timestep)])
    out = {}
    for name, dtype in DTYPES.items():
        # through the loader: it keeps in float32 what must stay so
        m = WanTransformer3DModel.from_pretrained(f"{folder}/transformer", torch_dtype=dtype).eval()
        run = lambda m=m, dtype=dtype: m(x.to(dtype), t, states.to(dtype), return_dict=False)[0]
        out[f"out.{name}"] = run().float().contiguous()
        jobs[f"dit.{name}"] = run
    save_file({"latents": x, "text": states, "timestep": t, **out}, f"{folder}/io.safetensors")
    return {}


def prepare_vae(folder, sizes, check, channels):
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    model = AutoencoderKLWan().eval()
    for name, weight in model.named_parameters():
        if "gamma" in name:
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(f"{folder}/vae")
    io = {f"latents{size[0]}": torch.randn(1, channels, *size) for size in sizes}
    io["check"] = torch.randn(1, channels, *check)
    first = io[f"latents{sizes[0][0]}"]
    for name, dtype in DTYPES.items():
        m = AutoencoderKLWan.from_pretrained(f"{folder}/vae", torch_dtype=dtype).eval()
        io[f"out.{name}"] = m.decode(io["check"].to(dtype), return_dict=False)[0].float().contiguous()
        jobs[f"vae.{name}"] = lambda m=m, dtype=dtype: m.decode(first.to(dtype), return_dict=False)[0]
    save_file(io, f"{folder}/io.safetensors")
    return {}


def prepare_ops(folder, chain, repeats):
    a, b = torch.randn(4, 4) * 0.3, torch.randn(4, 4) * 0.3
    save_file({"a": a, "b": b}, f"{folder}/io.safetensors")

    def add():
        x = a
        for _ in range(chain):
            x = x.add(b)

    def mul():
        x = a
        for _ in range(chain):
            x = x.mul(b)

    def mm():
        x = a
        for _ in range(chain):
            x = x.mm(b)

    def layer_norm():
        x = a
        for _ in range(chain):
            x = torch.nn.functional.layer_norm(x, (4,))

    def view():
        x = a
        for _ in range(chain // 2):
            x = x.view(2, 8).view(4, 4)

    def cat():
        x = a
        for _ in range(chain):
            x = torch.cat((a, b))

    def many(job):
        def run():
            with torch.inference_mode():
                for _ in range(repeats):
                    job()

        return run

    for job in (add, mul, mm, layer_norm, view, cat):
        jobs[f"ops.{job.__name__}"] = many(job)
    return {}


def answer(command):
    do = command.pop("do")
    if do == "start":
        return start(**command)
    if do == "run":
        return {"seconds": timed(jobs[command["what"]])}
    return {"dit": prepare_dit, "vae": prepare_vae, "ops": prepare_ops}[do](**command)


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
