#!/usr/bin/env python3
"""`atelier quantize`: what it writes, what it says, and what it refuses, on tiny checkpoints with random weights."""
import array
import json
import os
import signal
import struct
import subprocess
import unittest

from harness import BIN, Case, Png, atelier, model

DRAW = ("-p", "a red circle", "--seed", "7", "--width", "64", "--height", "64", "--steps", "3", "--json")


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b"".join(content for _, _, content in tensors.values())
    at = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Quantize(Case):
    def quantize(self, out, kind, *words, source=None):
        return atelier("quantize", source or model("tiny"), self.folder / out, "--type", kind, "--json", *words)

    def tensors(self, path):
        """What `inspect` says of the file: {tensor: encoding}."""
        result = atelier("inspect", path, "--json", "--tensors")
        self.assertEqual(result.code, 0, result.err)
        return {t["name"]: t["encoding"] for t in json.loads(result.out)["tensor_list"]}

    def draw(self, path):
        result = atelier("generate", "-m", path, *DRAW, "--overwrite", "--out", self.folder / "a.png")
        self.assertEqual(result.code, 0, result.err)
        return Png(result.event("image")["file"])

    def test_a_quantised_file_is_recognised_and_draws(self):
        for kind, encoding in (("Q8_0", "Q8_0"), ("Q4_0", "Q4_0")):
            with self.subTest(kind):
                result = self.quantize("a.gguf", kind, "--overwrite")
                self.assertEqual(result.code, 0, result.err)
                self.assertEqual(result.event("quant_plan")["architecture"], "sd1")
                path = self.folder / "a.gguf"
                encodings = self.tensors(path)
                self.assertEqual(set(encodings), set(self.tensors(model("tiny"))))
                self.assertIn(encoding, encodings.values())
                self.assertNotEqual(encodings["model.diffusion_model.input_blocks.0.0.weight"], encoding)
                self.assertLess(os.path.getsize(path), os.path.getsize(model("tiny")))
                self.draw(path)

    def test_there_and_back_gives_the_numbers_computed_with(self):
        self.quantize("a.gguf", "Q8_0")
        back = self.quantize("b.safetensors", "F32", source=self.folder / "a.gguf")
        self.assertEqual(back.code, 0, back.err)
        self.assertEqual(set(self.tensors(self.folder / "b.safetensors").values()), {"F32"})
        self.assertEqual(self.draw(self.folder / "a.gguf").rows, self.draw(self.folder / "b.safetensors").rows)

    def test_fp8_goes_into_safetensors(self):
        result = self.quantize("a.safetensors", "fp8")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("F8_E4M3", self.tensors(self.folder / "a.safetensors").values())
        self.draw(self.folder / "a.safetensors")

    def test_scaled_files_are_read_with_their_scales(self):
        """An fp8 file as ComfyUI writes them, with 0.5 for the scale of every matrix."""
        self.quantize("a.safetensors", "fp8")
        tensors = read_safetensors(self.folder / "a.safetensors")
        matrices = [name for name, (dtype, _, _) in tensors.items() if dtype == "F8_E4M3"]
        layers = [name.removesuffix(".weight") for name in matrices]
        scaled = tensors | {layer + ".scale_weight": ("F32", [], struct.pack("<f", 0.5)) for layer in layers}
        scaled |= {layer + ".scale_input": ("F32", [], struct.pack("<f", 1)) for layer in layers}
        scaled["model.diffusion_model.scaled_fp8"] = ("F8_E4M3", [2], bytes(2))
        write_safetensors(self.folder / "scaled.safetensors", scaled)

        listed = json.loads(atelier("inspect", self.folder / "scaled.safetensors", "--json", "--tensors").out)
        self.assertEqual({t["name"] for t in listed["tensor_list"]}, set(tensors))
        self.assertEqual({t["name"] for t in listed["tensor_list"] if t["scaled"]}, set(matrices))
        self.assertIn("F8_E4M3 scaled", atelier("inspect", self.folder / "scaled.safetensors").out)
        self.draw(self.folder / "scaled.safetensors")

        for source in ("a", "scaled"):
            back = self.quantize(source + "32.safetensors", "F32", source=self.folder / (source + ".safetensors"))
            self.assertEqual(back.code, 0, back.err)
        plain, halved = (read_safetensors(self.folder / name) for name in ("a32.safetensors", "scaled32.safetensors"))
        self.assertEqual(set(plain), set(halved))
        for name, (_, shape, data) in plain.items():
            factor = 0.5 if name in matrices else 1
            self.assertEqual(array.array("f", [factor * x for x in array.array("f", data)]).tobytes(),
                             halved[name][2], name)

        lost = layers[len(layers) // 2] + ".scale_weight"
        del scaled[lost]
        write_safetensors(self.folder / "lost.safetensors", scaled)
        self.assert_fails(atelier("generate", "-m", self.folder / "lost.safetensors", *DRAW), 1,
                          "lost.safetensors: tensor '" + lost + "'", "scaled_fp8")
        self.assert_fails(self.quantize("b.gguf", "Q8_0", source=self.folder / "lost.safetensors"), 1, lost)

    def test_the_report_names_every_tensor_and_its_error(self):
        result = self.quantize("a.gguf", "Q4_K_M", "--report", self.folder / "r.json")
        self.assertEqual(result.code, 0, result.err)
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual(len(report["tensor_list"]), len(self.tensors(model("tiny"))))
        for tensor in report["tensor_list"]:
            self.assertEqual(tensor["rmse"] == 0, tensor["from"] == tensor["to"], tensor)
            self.assertGreater(tensor["cosine"], 0.98)
        self.assertEqual(report["to_bytes"], sum(t["bytes"] for t in report["tensor_list"]))

    def test_lists_its_types(self):
        text = atelier("quantize", "--list").out
        for kind in ("Q4_K_M", "Q8_0", "IQ4_XS", "fp8", "BF16"):
            self.assertIn(kind, text)

    def test_refuses_in_one_line_and_leaves_nothing(self):
        def refused(code, *pieces, out="a.gguf", kind="Q8_0", **more):
            result = self.quantize(out, kind, **more)
            self.assert_fails(result, code, *pieces)
            self.assertFalse((self.folder / out).exists() and out != "there.gguf")
        refused(2, "Q4_K_X", "Did you mean Q4_K_", kind="Q4_K_X")
        refused(2, ".gguf or .safetensors", out="a.bin")
        refused(2, "fp8 cannot be stored in GGUF", kind="fp8")
        refused(2, "Q4_K_S cannot be stored in safetensors", kind="Q4_K_S", out="a.safetensors")
        (self.folder / "there.gguf").write_bytes(b"mine")
        refused(2, "exists already", "--overwrite", out="there.gguf")
        self.assertEqual((self.folder / "there.gguf").read_bytes(), b"mine")
        (self.folder / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
        refused(1, "bad.safetensors", source=self.folder / "bad.safetensors")
        refused(1, "nothing.safetensors", source=self.folder / "nothing.safetensors")
        self.assert_fails(atelier("quantize", model("tiny"), self.folder / "a.gguf"), 2, "--type")
        self.assert_fails(atelier("quantize", model("tiny"), model("tiny"), "--type", "F16"), 2, "same file")

    def test_ctrl_c_leaves_no_file(self):
        process = subprocess.Popen([BIN, "quantize", model("tiny"), self.folder / "a.gguf", "--type", "Q2_K", "--json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()  # the plan
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        if process.returncode:  # else it was quicker
            self.assertEqual(process.returncode, 130)
            self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main()
