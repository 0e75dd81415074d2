#!/usr/bin/env python3
"""GGUF files of `atelier quantize` in the hands of the `gguf` package, which llama.cpp's tools are built on.

Every type is written, opened by its reader and decoded by its numpy decoders; the numbers must be those that
`atelier quantize --type F32` gives back, bit for bit. Without the package (tools/setup.sh --reference) the
test ends with 77, as ctest's skipped tests do.
"""
import json
import pathlib
import struct
import sys
import tempfile

try:
    import gguf
    import numpy as np
except ImportError:
    sys.exit(77)

from harness import atelier, read_safetensors

# Rows for every kind of block, none of whole blocks, a vector, a convolution and one of five dimensions.
SHAPES = {"blocks.0.attn.weight": [24, 512], "blocks.0.to_v.weight": [64, 256], "blocks.0.down_proj.weight": [8, 768],
          "blocks.1.short.weight": [40, 96], "blocks.1.odd.weight": [50, 30], "blocks.1.conv.weight": [64, 32, 3, 3],
          "blocks.2.video.weight": [8, 16, 4, 8, 8], "blocks.2.bias": [77], "embed.weight": [100, 64]}


def write_source(path):
    random, header, data = np.random.default_rng(1), {}, b""
    for name, shape in SHAPES.items():
        values = random.normal(0, 0.05, shape).astype(np.float32)
        values.flat[::13] *= 6
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def run(*words):
    result = atelier(*words)
    assert result.code == 0, f"{words}: {result.err}"
    return result


def check(folder, source, kind):
    """The encodings that the file of this type has."""
    file, back = folder / f"{kind}.gguf", folder / f"{kind}.safetensors"
    run("quantize", source, file, "--type", kind)
    run("quantize", file, back, "--type", "F32")
    header, numbers = read_safetensors(back)
    reader = gguf.GGUFReader(file)
    assert {t.name for t in reader.tensors} == set(SHAPES), f"{kind}: other tensors"
    for tensor in reader.tensors:
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(-1)
        ours = np.frombuffer(numbers[tensor.name], np.float32)
        assert header[tensor.name]["shape"] == SHAPES[tensor.name], f"{kind}, {tensor.name}: another shape"
        assert np.array_equal(ours.view(np.uint32), wanted.view(np.uint32)), f"{kind}, {tensor.name}: other numbers"
        kept = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        shape = kept.contents() if kept else [int(n) for n in reversed(tensor.shape)]
        assert shape == SHAPES[tensor.name], f"{kind}, {tensor.name}: the reader sees {shape}"
    return {tensor.tensor_type.name for tensor in reader.tensors}


def check_importance(folder, source):
    """An importance matrix of the package's own writing is taken."""
    writer = gguf.GGUFWriter(folder / "i.gguf", "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["words.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    sums = np.random.default_rng(2).exponential(1, (1, 512)).astype(np.float32)
    writer.add_tensor("blocks.0.attn.weight.in_sum2", sums)
    writer.add_tensor("blocks.0.attn.weight.counts", np.array([[512]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = run("quantize", source, folder / "w.gguf", "--type", "Q4_K_S", "--imatrix", folder / "i.gguf", "--json")
    assert result.event("quant_plan")["weighed"] == 1


def main():
    types = [t["name"] for t in run("quantize", "--list", "--json").event("quant_types")["types"]]
    assert "Q4_K_M" in types
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = folder / "source.safetensors"
        write_source(source)
        seen = set()
        for kind in types:
            if not kind.startswith("fp8"):
                seen |= check(folder, source, kind)
        check_importance(folder, source)
    print(f"read alike, in {len(types) - 2} types: {', '.join(sorted(seen))}")


if __name__ == "__main__":
    main()
