"""Shared by the golden scripts: random weights that survive rounding, and files of at most 100 KB."""

import json
import math
import pathlib

import diffusers
import numpy
import safetensors.torch
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
LIMIT = 100_000  # bytes of one file


def randomize(module, seed, matrices=torch.float16):
    """Fills `module` with normal weights of unit gain, rounded so that a file in `matrices` holds them exactly.

    Matrices and kernels are rounded to `matrices`, vectors (norms, biases) to float16.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                draw /= math.sqrt(parameter[0].numel())
            else:
                draw = 0.1 * draw + (1.0 if name.endswith("weight") else 0.0)
            dtype = matrices if parameter.dim() > 1 else torch.float16
            parameter.copy_(draw.to(dtype).float())
    return module.eval()


def stored(tensors, matrices):
    """The same tensors in the dtypes `randomize` rounded them to; raises when one of them is not exact."""
    result = {}
    for name, tensor in tensors.items():
        dtype = matrices if tensor.dim() > 1 else torch.float16
        result[name] = tensor.detach().to(dtype).contiguous()
        if not torch.equal(result[name].float(), tensor.detach().float()):
            raise ValueError(f"{name} does not survive {dtype}")
    return result


def metadata(seed, dtype, about):
    return {
        "about": about,
        "seed": str(seed),
        "dtype": dtype,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def write(folder, name, tensors, meta):
    """Writes folder/name.safetensors, or, when that would pass the limit, shards of it and their index."""
    path = ROOT / folder
    path.mkdir(parents=True, exist_ok=True)
    for old in [*path.glob(f"{name}.safetensors*"), *path.glob(f"{name}-*.safetensors")]:
        old.unlink()
    shards = [{}]
    room = LIMIT - 2000
    for key, tensor in tensors.items():
        cost = tensor.numel() * tensor.element_size() + len(key) + 80
        if cost > room and shards[-1]:
            shards.append({})
            room = LIMIT - 2000
        shards[-1][key] = tensor.contiguous()
        room -= cost
    if len(shards) == 1:
        save(path / f"{name}.safetensors", shards[0], meta)
        return
    index = {"metadata": meta, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"{name}-{i + 1:05}-of-{len(shards):05}.safetensors"
        save(path / file, shard, meta)
        index["weight_map"].update({key: file for key in shard})
    (path / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def save(path, tensors, meta):
    safetensors.torch.save_file(tensors, path, metadata=meta)
    size = path.stat().st_size
    if size > LIMIT:
        raise ValueError(f"{path} has {size} bytes")
    print(f"{size:7} {path.relative_to(ROOT)}")


class Recorder:
    """Collects the outputs of chosen sub-modules during a forward pass."""

    def __init__(self, named_modules):
        self.outputs = {}
        for name, module in named_modules.items():
            module.register_forward_hook(self._keep(name))

    def _keep(self, name):
        def hook(_module, _inputs, output):
            self.outputs[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook
