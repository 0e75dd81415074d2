"""Checkpoint files written by the safetensors, gguf and torch packages, and what is in them.

Writes tests/golden/formats/*: the files, and expected.json with shape, encoding and bytes (hex) of
every tensor and some metadata. Run it with .venv-golden/bin/python from the repository's root.
"""

import argparse
import collections
import json
import pathlib
import warnings

import gguf
import numpy
import safetensors
import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "formats"
LIMIT = 100_000
EXPECTED = {}

TORCH_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16",
    torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
}


def draw(dtype, shape=(2, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    if dtype == torch.complex64:
        return torch.complex(torch.randn(shape, generator=generator),
                             torch.randn(shape, generator=generator))
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def entry(tensor):
    return {"shape": list(tensor.shape), "encoding": TORCH_NAMES[tensor.dtype],
            "bytes": raw(tensor).hex()}


def expect(file, tensors, metadata=None):
    EXPECTED[file] = {"tensors": tensors, "metadata": metadata or {}}


def write_safetensors():
    tensors = {f"t.{name}": draw(dtype, seed=i) for i, (dtype, name) in enumerate(TORCH_NAMES.items())}
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.zeros(0, 4)
    tensors['quote " back \\ snow \u2603'] = torch.arange(3)
    safetensors.torch.save_file(tensors, ROOT / "dtypes.safetensors", metadata={"format": "pt", "note": "a\nb"})
    expect("dtypes.safetensors", {name: entry(t) for name, t in tensors.items()},
           {"format": "pt", "note": "a\nb"})
    # Two elements in a byte: the header counts elements, torch counts bytes.
    packed = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    safetensors.torch.save_file({"f4": packed}, ROOT / "packed.safetensors")
    expect("packed.safetensors",
           {"f4": {"shape": [2, 8], "encoding": "F4", "bytes": bytes(range(8)).hex()}})
    # One key of metadata, since the package writes several in no fixed order.
    plain = {"b": torch.arange(4, dtype=torch.float32), "a": torch.ones(2, 1, dtype=torch.float32),
             "half": torch.ones(3, dtype=torch.float16)}
    safetensors.torch.save_file(plain, ROOT / "plain.safetensors", metadata={"format": "pt"})
    expect("plain.safetensors", {name: entry(t) for name, t in plain.items()}, {"format": "pt"})


def write_gguf():
    writer = gguf.GGUFWriter(ROOT / "types.gguf", "sd1")
    writer.add_custom_alignment(64)
    writer.add_uint8("v.u8", 200)
    writer.add_int8("v.i8", -100)
    writer.add_uint16("v.u16", 60000)
    writer.add_int16("v.i16", -30000)
    writer.add_uint32("v.u32", 4_000_000_000)
    writer.add_int32("v.i32", -2_000_000_000)
    writer.add_float32("v.f32", 0.1)
    writer.add_bool("v.bool", True)
    writer.add_string("v.text", "snow \u2603")
    writer.add_uint64("v.u64", 2**64 - 1)
    writer.add_int64("v.i64", -(2**62))
    writer.add_float64("v.f64", 1e-300)
    writer.add_array("v.texts", ["a", "", "b\u2603"])
    writer.add_array("v.numbers", [1, -2, 3])
    writer.add_array("v.reals", [0.5, -1.5])
    writer.add_array("comfy.gguf.orig_shape.folded", [8, 4, 4, 4])
    generator = numpy.random.default_rng(1)
    tensors = {}

    def add(name, shape, quantization, data):
        writer.add_tensor(name, data, raw_shape=None, raw_dtype=quantization)
        tensors[name] = {"shape": shape, "encoding": quantization.name, "bytes": data.tobytes().hex()}

    for kind, (block, size) in gguf.constants.GGML_QUANT_SIZES.items():
        if kind == gguf.GGMLQuantizationType.Q8_1:
            continue  # the package gives it 40 bytes a block, the format 36
        data = generator.integers(0, 256, (2, size), dtype=numpy.uint8)
        add(f"t.{kind.name}", [2, block], kind, data)
    add("folded", [8, 4, 4, 4], gguf.GGMLQuantizationType.F16,
        generator.integers(0, 256, (2, 512), dtype=numpy.uint8))
    quantised = gguf.quants.quantize(numpy.linspace(-1, 1, 128, dtype=numpy.float32).reshape(2, 64),
                                     gguf.GGMLQuantizationType.Q8_0)
    add("rows", [2, 64], gguf.GGMLQuantizationType.Q8_0, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expect("types.gguf", tensors, {
        "general.architecture": "sd1", "general.alignment": "64", "v.u8": "200", "v.i8": "-100",
        "v.u16": "60000", "v.i16": "-30000", "v.u32": "4000000000", "v.i32": "-2000000000",
        "v.f32": "0.1", "v.bool": "true", "v.text": "snow \u2603", "v.u64": str(2**64 - 1),
        "v.i64": str(-(2**62)), "v.f64": "1e-300"})

    big = gguf.GGUFWriter(ROOT / "big_endian.gguf", "sd1", endianess=gguf.GGUFEndian.BIG)
    big.add_tensor("t", numpy.ones((2, 2), dtype=numpy.float32))
    big.write_header_to_file()
    big.write_kv_data_to_file()
    big.write_tensors_to_file()
    big.close()


class Unknown:
    """An object of the kind that training programs leave in their checkpoints."""


def first_parameter_dict(parameters):
    """A torch.nn.ParameterDict as torch before 1.12 had them: ordered parameters, and no keys of its own."""
    module = torch.nn.ParameterDict.__new__(torch.nn.ParameterDict)
    torch.nn.Module.__init__(module)
    module._parameters = collections.OrderedDict(parameters)
    return module


def write_torch():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = collections.OrderedDict()
    for i, (dtype, name) in enumerate(TORCH_NAMES.items()):
        state[f"t.{name}"] = draw(dtype, seed=i)
    state["parameter"] = torch.nn.Parameter(draw(torch.float32, seed=50))
    state["base"] = base
    state["row"] = base[2]
    state["tail"] = base.reshape(-1)[20:]
    state["transposed"] = base.t()
    state["column"] = base[:, 1:3]
    state["scalar"] = torch.tensor(7.0)
    state["empty"] = torch.zeros(3, 0)
    state["permuted"] = draw(torch.float16, (2, 3, 4, 5), 60).to(memory_format=torch.channels_last)
    tensors = {name: entry(t) for name, t in state.items()}
    torch.save(state, ROOT / "state.pt")
    expect("state.pt", tensors)
    torch.save(state, ROOT / "protocol5.pt", pickle_protocol=5)
    expect("protocol5.pt", tensors)

    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(draw(torch.float32, (2, 3), 70))
        linear.bias.copy_(draw(torch.float32, (2,), 71))
    training = {
        "epoch": 3, "global_step": 1000, "loss": 0.25, "name": "tiny", "finished": False, "none": None,
        "state_dict": linear.state_dict(),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2, 3)}}, "param_groups": [{"lr": 1e-4}]}],
    }
    torch.save(training, ROOT / "training.ckpt")
    expect("training.ckpt", {k: entry(v) for k, v in linear.state_dict().items()},
           {"epoch": "3", "global_step": "1000", "loss": "0.25", "name": "tiny", "finished": "false"})
    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": draw(torch.float32, (2, 8), 80)},
                 "name": "style", "step": 5}
    torch.save(embedding, ROOT / "embedding.pt")
    expect("embedding.pt", {"string_to_param.*": entry(embedding["string_to_param"]["*"])},
           {"name": "style", "step": "5"})
    vectors = torch.nn.Parameter(draw(torch.float32, (2, 8), 81))
    for name, parameters in (("parameters.pt", torch.nn.ParameterDict({"*": vectors})),
                             ("parameters_first.pt", first_parameter_dict({"*": vectors}))):
        torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, ROOT / name)
        expect(name, {"string_to_token.*": entry(torch.tensor(265)), "string_to_param.*": entry(vectors)})
    bare = draw(torch.float32, (2, 8), 82)
    torch.save(bare, ROOT / "bare_tensor.pt")
    expect("bare_tensor.pt", {"tensor": entry(bare)})

    torch.save({"a": torch.ones(2)}, ROOT / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2), "callback": Unknown()}, ROOT / "object.ckpt")
    torch.save({"a": torch.ones(2), "arguments": argparse.Namespace(x=1)}, ROOT / "namespace.ckpt")
    torch.save({"a": torch.ones(2), "best": numpy.float64(0.5)}, ROOT / "numpy_scalar.ckpt")
    torch.save([torch.ones(2)], ROOT / "list.pt")
    torch.save({"a": torch.ones(1).expand(4, 5)}, ROOT / "expanded.pt")
    torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, ROOT / "quantised.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), ROOT / "script.pt")
    numpy.savez(ROOT / "arrays.npz", a=numpy.ones(2))


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    for old in ROOT.iterdir():
        old.unlink()
    write_safetensors()
    write_gguf()
    write_torch()
    EXPECTED["versions"] = {"torch": torch.__version__, "safetensors": safetensors.__version__,
                            "gguf": "0.19.0", "numpy": numpy.__version__}
    (ROOT / "expected.json").write_text(json.dumps(EXPECTED, indent=1, ensure_ascii=False) + "\n")
    for path in sorted(ROOT.iterdir()):
        size = path.stat().st_size
        print(f"{size:7} {path.name}")
        if size > LIMIT:
            raise ValueError(f"{path} has {size} bytes")


if __name__ == "__main__":
    main()
