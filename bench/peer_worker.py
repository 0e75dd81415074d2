#!/usr/bin/env python3
"""One peer as a process that answers JSON lines: {"op": "load" | "run" | "quit", ...}.

load: engine ("eager", "openvino"), part ("unet", "vae"), folder (diffusers layout), dtype, threads,
      shapes ({input name: extents}). Answers {"ready": true, "variant": ...}.
      OpenVINO's graph must have been written: peer_worker.py --convert JOB, with a load job.
run:  input and output are safetensors files; answers {"seconds": ..., "peak_rss_mb": ...}: the time of the
      call alone, and the most memory this process ever had, in millions of bytes.

The driver writes inputs once and alternates between workers, so that each sees the same machine.
"""
import json
import os
import sys
import time
import warnings

import numpy as np
import torch
from safetensors.torch import load_file, save_file

# The order in which a module takes its inputs.
INPUTS = {"unet": ["sample", "timestep", "context"], "vae": ["latent"]}


def load(kind, folder, part, dtype):
    """A part's module with its weights in `dtype`, without a second copy of them on the way."""
    import diffusers
    module = getattr(diffusers, kind)
    with torch.device("meta"):
        net = module.from_config(module.load_config(folder, subfolder=part, local_files_only=True))
    weights = load_file(os.path.join(folder, part, "diffusion_pytorch_model.safetensors"))
    net.load_state_dict({name: weights.pop(name).to(dtype) for name in list(weights)}, assign=True)
    return net.eval().requires_grad_(False)


class Unet(torch.nn.Module):
    def __init__(self, folder, dtype):
        super().__init__()
        self.net = load("UNet2DConditionModel", folder, "unet", dtype)

    def forward(self, sample, timestep, context):
        return self.net(sample, timestep, encoder_hidden_states=context, return_dict=False)[0]


class Vae(torch.nn.Module):
    def __init__(self, folder, dtype):
        super().__init__()
        self.net = load("AutoencoderKL", folder, "vae", dtype)

    def forward(self, latent):
        return self.net.decode(latent, return_dict=False)[0]


PARTS = {"unet": Unet, "vae": Vae}


class Eager:
    """diffusers' module as it is; of NCHW and channels-last the quicker one."""

    def __init__(self, job):
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
        self.module = PARTS[job["part"]](job["folder"], self.dtype)
        self.format = torch.contiguous_format
        inputs = [torch.randn(job["shapes"][n]) for n in INPUTS[job["part"]]]
        times = {}
        for memory_format in (torch.contiguous_format, torch.channels_last):
            self.format = memory_format
            self.module.to(memory_format=memory_format)
            self(*inputs)
            start = time.perf_counter()
            self(*inputs)
            times[memory_format] = time.perf_counter() - start
        self.format = min(times, key=times.get)
        self.module.to(memory_format=self.format)
        self.variant = "channels-last" if self.format == torch.channels_last else "NCHW"

    @torch.inference_mode()
    def __call__(self, *inputs):
        inputs = [t.to(self.dtype) if t.is_floating_point() and t.dim() > 1 else t for t in inputs]
        inputs = [t.contiguous(memory_format=self.format) if t.dim() == 4 else t for t in inputs]
        return self.module(*inputs).float()


def converted_path(job):
    extents = "x".join(map(str, job["shapes"][INPUTS[job["part"]][0]]))
    return os.path.join(job["folder"], "openvino", f"{job['part']}_{extents}.xml")


def convert(job):
    """Writes the part as OpenVINO's graph of these shapes, fp32, unless it is there."""
    path = converted_path(job)
    if os.path.exists(path):
        return
    import openvino as ov
    shapes = [job["shapes"][n] for n in INPUTS[job["part"]]]
    module = PARTS[job["part"]](job["folder"], torch.float32)
    # Tracing warns of every shape that it takes for fixed; here they are.
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    with torch.no_grad():
        model = ov.convert_model(module, example_input=tuple(torch.randn(s) for s in shapes),
                                 input=[(ov.PartialShape(s), ov.Type.f32) for s in shapes])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    ov.save_model(model, path + ".part.xml", compress_to_fp16=False)
    os.replace(path + ".part.bin", path[:-len("xml")] + "bin")
    os.replace(path + ".part.xml", path)


class OpenVino:
    """The same module converted, fixed in shape and compiled for the CPU plugin."""

    def __init__(self, job):
        import openvino as ov
        core = ov.Core()
        precision = {"fp32": "f32", "bf16": "bf16"}[job["dtype"]]
        self.compiled = core.compile_model(converted_path(job), "CPU", {
            "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": job["threads"],
            "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"})
        self.request = self.compiled.create_infer_request()
        self.variant = f"OpenVINO {ov.__version__.split('-')[0]}"

    def __call__(self, *inputs):
        result = self.request.infer([np.ascontiguousarray(t.float().numpy()) for t in inputs])
        return torch.from_numpy(np.array(next(iter(result.values()))))


def peak_rss_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith("VmHWM:"))


ENGINES = {"eager": Eager, "openvino": OpenVino}


def main():
    if sys.argv[1:2] == ["--convert"]:
        return convert(json.loads(sys.argv[2]))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print; answers have a channel of their own
    engine = part = None
    for line in sys.stdin:
        job = json.loads(line)
        if job["op"] == "load":
            torch.set_num_threads(job["threads"])
            part, engine = job["part"], ENGINES[job["engine"]](job)
            out.write(json.dumps({"ready": True, "variant": engine.variant}) + "\n")
        elif job["op"] == "run":
            tensors = load_file(job["input"])
            inputs = [tensors[n] for n in INPUTS[part]]
            start = time.perf_counter()
            result = engine(*inputs)
            seconds = time.perf_counter() - start
            if job.get("output"):
                save_file({"result": result.contiguous()}, job["output"])
            out.write(json.dumps({"seconds": seconds, "peak_rss_mb": peak_rss_mb()}) + "\n")
        else:
            break


if __name__ == "__main__":
    main()
