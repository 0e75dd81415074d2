#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to fuzz/corpus: small files, each showing other parts of its format.

Needs the standard library only. Inputs kept from findings (fixed-*) are left alone.
"""

import io
import json
import pathlib
import pickle
import struct
import zipfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def save(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_safetensors():
    save("safetensors", "empty", safetensors({}))
    save("safetensors", "two", safetensors(
        {"__metadata__": {"format": "pt", "a": "b"}, "w": tensor("F32", [2, 1], 0, 8), "b": tensor("F16", [3], 8, 14)},
        bytes(14)))
    save("safetensors", "kinds", safetensors(
        {"a": tensor("F8_E4M3", [1], 0, 1), "b": tensor("BOOL", [0, 5], 1, 1), "c": tensor("F4", [4], 1, 3),
         "d": tensor("F6_E2M3", [4], 3, 6), "e": tensor("I64", [], 6, 14)}, bytes(14)))
    save("safetensors", "unknown_field", safetensors(
        {"a": {**tensor("U8", [1], 0, 1), "new": {"deep": [1, None, {"x": 2.5}]}}}, b"x"))
    save("safetensors", "overlap", safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, bytes(3)))
    save("safetensors", "escapes", safetensors(b'{"\\u2603\\"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}  ', b"x"))


def scaled(tensors, metadata=None):
    """A safetensors file of (name, dtype, shape, bytes)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, dtype, shape, content in tensors:
        header[name] = tensor(dtype, shape, len(data), len(data) + len(content))
        data += content
    return safetensors(header, data)


def write_scaled():
    codes = bytes(range(24))
    one, ones = struct.pack("<f", 0.5), struct.pack("<4f", 1, 2, 3, 4)
    save("safetensors", "scaled_fp8", scaled([
        ("a.weight", "F8_E4M3", [4, 6], codes), ("a.scale_weight", "F32", [], one), ("a.scale_input", "F32", [], one),
        ("scaled_fp8", "F8_E4M3", [0], b"")]))
    layout = b'{"format":"int8_tensorwise"}'
    save("safetensors", "scaled_layers", scaled([
        ("a.weight", "I8", [4, 6], codes), ("a.weight_scale", "F32", [4, 1], ones),
        ("a.comfy_quant", "U8", [len(layout)], layout), ("b.weight", "U8", [4, 6], codes),
        ("b.weight_scale", "BF16", [2, 3], bytes(12)), ("c.weight", "I8", [4, 6], codes), ("c.SCB", "F16", [4], bytes(8))],
        {"_quantization_metadata": '{"layers":{"b":{"format":"float8_e5m2"}}}'}))
    save("safetensors", "scaled_nvfp4", scaled([
        ("a.weight", "U8", [2, 16], codes + codes[:8]), ("a.weight_scale", "F8_E4M3", [128, 4], b"\x38" * 512),
        ("a.weight_scale_2", "F32", [], one), ("b.weight", "F8_E4M3", [1, 32], codes + codes[:8]),
        ("b.weight_scale", "F8_E8M0", [512], b"\x7f" * 512)]))
    state = {"quant_type": "nf4", "blocksize": 8, "shape": [4, 6]}
    for name, absmax, more in (
            ("scaled_nf4", ("F32", struct.pack("<3f", 1, 2, 3)), []),
            ("scaled_nested", ("U8", b"\x00\x80\xff"), [
                ("w.nested_absmax", "F32", [2], ones[:8]), ("w.nested_quant_map", "F32", [256], one * 256)])):
        if more:
            state |= {"nested_blocksize": 2, "nested_offset": 0.25}
        told = json.dumps(state).encode()
        save("safetensors", name, scaled([
            ("w", "U8", [12, 1], codes[:12]), ("w.absmax", absmax[0], [3], absmax[1]), *more,
            ("w.quant_state.bitsandbytes__nf4", "U8", [len(told)], told)]))


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(pairs, tensors, data=b"", version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += gguf_text(key) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return out + bytes(-len(out) % alignment) + data


def write_gguf():
    scalars = [(f"k{kind}", kind, struct.pack("<" + code, 1)) for kind, code in
               enumerate("BbHhIif?")] + [("k10", 10, struct.pack("<Q", 1)), ("k11", 11, struct.pack("<q", -1)),
                                        ("k12", 12, struct.pack("<d", 0.5))]
    save("gguf", "scalars", gguf(scalars + [("general.architecture", 8, gguf_text("sd1"))], []))
    array = struct.pack("<IQ", 5, 2) + struct.pack("<ii", 2, 2)
    texts = struct.pack("<IQ", 8, 2) + gguf_text("a") + gguf_text("")
    nested = struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 7, 2) + b"\x00\x01"
    save("gguf", "arrays", gguf([("comfy.gguf.orig_shape.t", 9, array), ("texts", 9, texts), ("nested", 9, nested)],
                                [("t", [4], 0, 0)], bytes(16), version=2))
    save("gguf", "tensors", gguf([("general.alignment", 4, struct.pack("<I", 64))],
                                 [("q", [32, 2], 8, 0), ("h", [3], 1, 128), ("s", [], 0, 192)], bytes(196),
                                 alignment=64))
    # (ggml type, elements, bytes) of every block encoding.
    blocks = [(2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (9, 32, 36), (10, 256, 84), (11, 256, 110),
              (12, 256, 144), (13, 256, 176), (14, 256, 210), (15, 256, 292), (16, 256, 66), (17, 256, 74), (18, 256, 98),
              (19, 256, 50), (20, 32, 18), (21, 256, 110), (22, 256, 82), (23, 256, 136), (29, 256, 56), (34, 256, 54),
              (35, 256, 66), (39, 32, 17), (40, 64, 36), (41, 128, 18), (42, 64, 18)]
    tensors, data = [], b""
    for kind, elements, size in blocks:
        tensors.append((f"t{kind}", [elements], kind, len(data)))
        data += bytes((7 * i + kind) % 256 for i in range(size)) + bytes(-size % 32)
    save("gguf", "blocks", gguf([], tensors, data))
    save("gguf", "retired", gguf([], [("t", [32], 31, 0)], bytes(18)))
    save("gguf", "overlap", gguf([], [("a", [8], 0, 0), ("b", [8], 0, 0)], bytes(32)))
    save("gguf", "empty", gguf([], []))


class Opcodes(io.BytesIO):
    """Writes the opcodes of torch.save by hand: protocol 2, one storage per tensor."""

    def text(self, value):
        self.write(b"X" + struct.pack("<I", len(value)) + value.encode())

    def integer(self, value):
        self.write(b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value))

    def integers(self, values):
        self.write(b"(")
        for value in values:
            self.integer(value)
        self.write(b"t")

    def tensor(self, key, kind, count, shape, strides, offset=0, function="_rebuild_tensor_v2", tail=b"\x89}"):
        self.write(b"ctorch._utils\n" + function.encode() + b"\n((")
        self.text("storage")
        self.write(b"ctorch\n" + kind.encode() + b"\n")
        self.text(key)
        self.text("cpu")
        self.integer(count)
        self.write(b"tQ")
        self.integer(offset)
        self.integers(shape)
        self.integers(strides)
        self.write(tail + b"tR")


def state_dict():
    out = Opcodes()
    out.write(b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(")
    out.text("w")
    out.tensor("0", "FloatStorage", 6, [2, 3], [3, 1])
    out.text("t")
    out.tensor("0", "FloatStorage", 6, [3, 2], [1, 3])
    out.text("h")
    out.tensor("1", "HalfStorage", 2, [2], [1])
    out.text("f8")
    out.tensor("1", "UntypedStorage", 4, [4], [1], function="_rebuild_tensor_v3",
               tail=b"\x89}ctorch\nfloat8_e4m3fn\n")
    out.write(b"u}")
    out.text("_metadata")
    out.write(b"h\x00)Rsb.")
    return out.getvalue()


def nested():
    out = Opcodes()
    out.write(b"\x80\x02}(")
    out.text("epoch")
    out.integer(3)
    out.text("loss")
    out.write(b"G" + struct.pack(">d", 0.5))
    out.text("state_dict")
    out.write(b"}(")
    out.text("p")
    out.write(b"ctorch._utils\n_rebuild_parameter\n(")
    out.tensor("0", "BFloat16Storage", 4, [4], [1])
    out.write(b"\x88}tRuu.")
    return out.getvalue()


def parameter_dict():
    """A textual inversion: a module whose state has the parameters, and its own keys."""
    out = Opcodes()
    out.write(b"\x80\x02}")
    out.text("string_to_param")
    out.write(b"ctorch.nn.modules.container\nParameterDict\n)\x81}(")
    out.text("training")
    out.write(b"\x88")
    out.text("_parameters")
    out.write(b"}")
    out.text("*")
    out.tensor("0", "FloatStorage", 4, [1, 4], [4, 1])
    out.write(b"s")
    out.text("_keys")
    out.write(b"}")
    out.text("*")
    out.write(b"Nsubs.")
    return out.getvalue()


def lone_tensor():
    out = Opcodes()
    out.write(b"\x80\x02")
    out.tensor("0", "FloatStorage", 4, [1, 4], [4, 1])
    out.write(b".")
    return out.getvalue()


def zipped(pkl, storages, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        def put(name, data):
            archive.writestr(zipfile.ZipInfo(name), data, compression)
        put("a/data.pkl", pkl)
        put("a/byteorder", "little")
        for key, data in storages.items():
            put(f"a/data/{key}", data)
        put("a/version", "3\n")
    return out.getvalue()


def write_torch():
    plain = {"a": [1, -1, 2**40, 0.5, None, True, "text", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 7: {"b": {1, 2}}}
    for protocol in (2, 3, 4, 5):
        save("pickle", f"plain{protocol}", pickle.dumps(plain, protocol))
    save("pickle", "state_dict", state_dict())
    save("pickle", "nested", nested())
    save("pickle", "parameters", parameter_dict())
    save("pickle", "foreign_global", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    save("pickle", "self_reference", b"\x80\x02]q\x01h\x01a.")
    save("torch_zip", "state_dict", zipped(state_dict(), {"0": bytes(24), "1": bytes(4)}))
    save("torch_zip", "nested", zipped(nested(), {"0": bytes(8)}))
    save("torch_zip", "parameters", zipped(parameter_dict(), {"0": bytes(16)}))
    save("torch_zip", "lone_tensor", zipped(lone_tensor(), {"0": bytes(16)}))
    save("torch_zip", "compressed", zipped(nested(), {"0": bytes(8)}, zipfile.ZIP_DEFLATED))
    save("torch_zip", "cyclic", zipped(b"\x80\x02}q\x01X\x01\x00\x00\x00kh\x01s.", {}))


def write_index():
    save("shard_index", "two", json.dumps(
        {"metadata": {"total_size": 12}, "weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}},
        indent=2).encode())
    save("shard_index", "outside", b'{"weight_map":{"a":"../x"}}')
    save("shard_index", "config", b'{"model_type":"clip","hidden":[1,2.5,null,true,{"x":"\\u2603"}]}')


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def wire(number, value):
    """A protobuf field: an int as a varint, a float as four bytes, bytes and text with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def spiece(pieces, trainer=b"", normalizer=b""):
    rows = [wire(1, wire(1, text) + wire(2, float(score)) + wire(3, kind)) for text, score, kind in pieces]
    return b"".join(rows) + wire(2, trainer) + wire(3, normalizer)


def write_spiece():
    pieces = [("<pad>", 0, 3), ("</s>", 0, 3), ("<unk>", 0, 2), ("\u2581", -2, 1), ("\u2581a", -3, 1), ("c", -4, 1),
              ("at", -4, 1), ("\u2581the", -5, 1), ("(c)", 0, 4), ("old", -9, 5)]
    # a trie of one entry: U+00BD becomes "1/2"
    units = [0] * 512
    units[0] = 1 << 10  # children of the root at 1 ^ byte
    units[1 ^ 0xC2] = 256 << 10 ^ (1 ^ 0xC2) << 10 | 0xC2
    units[256 ^ 0xBD] = 1 << 10 | 0x100 | 0xBD
    units[256 ^ 0xBD ^ 1] = 1 << 31
    trie = struct.pack("<512I", *units)
    charsmap = struct.pack("<I", len(trie)) + trie + b"1/2\0"
    save("spiece", "plain", spiece(pieces, wire(3, 1) + wire(4, 10)))
    save("spiece", "map", spiece(pieces, b"", wire(1, "own") + wire(2, charsmap) + wire(3, 1)))
    save("spiece", "bytes", spiece(pieces[:4] + [(f"<0x{i:02X}>", 0, 6) for i in range(256)], wire(35, 1)))
    save("spiece", "bpe", spiece(pieces, wire(3, 2)))
    vocabulary = [[text, score] for text, score, kind in pieces]
    save("spiece", "tokenizer.json", json.dumps(
        {"added_tokens": [{"id": 1, "content": "</s>", "special": True}, {"id": 10, "content": "<x>", "special": True}],
         "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}]},
         "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
         "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary}}).encode())


def write_lora():
    """A file of each kind of change, of the tensors their trainers wrote."""
    file = (CORPUS.parents[1] / "tests/golden/lora/kinds.safetensors").read_bytes()
    start = 8 + struct.unpack_from("<Q", file)[0]
    header = json.loads(file[8:start])
    for kind in [name[5:] for name in header if name.startswith("base/")]:
        weight = "x".join(map(str, header[f"base/{kind}"]["shape"]))
        tensors = []
        for name, row in header.items():
            if name.startswith(f"file/{kind}/"):
                begin, end = row["data_offsets"]
                key = f"{weight}.{name.split('/', 2)[2]}"
                tensors.append((key, row["dtype"], row["shape"], file[start + begin:start + end]))
        save("lora", kind, scaled(tensors))
    save("lora", "set", scaled([("12x8.set_weight", "F16", [12, 8], bytes(192)), ("12x8.diff_b", "F32", [12], bytes(48))]))


if __name__ == "__main__":
    write_safetensors()
    write_scaled()
    write_gguf()
    write_torch()
    write_index()
    write_spiece()
    write_lora()
    for path in sorted(CORPUS.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:6} {path.relative_to(CORPUS)}")
