#!/usr/bin/env python3
"""`atelier quantize`: what it writes, what it says, and what it refuses, on tiny checkpoints with random weights."""
import array
import fcntl
import json
import math
import os
import random
import resource
import select
import signal
import struct
import subprocess
import time
import unittest

from harness import BIN, Case, Png, atelier, model, read_bytes, read_safetensors, write_bytes

DRAW = ("-p", "a red circle", "--seed", "7", "--width", "64", "--height", "64", "--steps", "3", "--json")


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

    def test_types_have_the_names_others_give_them(self):
        self.assertEqual(self.quantize("a.gguf", "q4_k").event("quant_plan")["type"], "Q4_K_M")
        self.assertEqual(self.quantize("a.safetensors", "F8_E4M3").event("quant_plan")["type"], "fp8")
        self.assert_fails(self.quantize("b.gguf", "IQ2_XXS"), 2, "IQ2_XXS", "can be read, not written")

    def test_fp8_goes_into_safetensors(self):
        result = self.quantize("a.safetensors", "fp8")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("F8_E4M3", self.tensors(self.folder / "a.safetensors").values())
        self.draw(self.folder / "a.safetensors")

    def test_scaled_files_are_read_with_their_scales(self):
        """An fp8 file as ComfyUI writes them, with 0.5 for the scale of every matrix."""
        self.quantize("a.safetensors", "fp8")
        tensors = read_bytes(self.folder / "a.safetensors")
        matrices = [name for name, (dtype, _, _) in tensors.items() if dtype == "F8_E4M3"]
        layers = [name.removesuffix(".weight") for name in matrices]
        scaled = tensors | {layer + ".scale_weight": ("F32", [], struct.pack("<f", 0.5)) for layer in layers}
        scaled |= {layer + ".scale_input": ("F32", [], struct.pack("<f", 1)) for layer in layers}
        scaled["model.diffusion_model.scaled_fp8"] = ("F8_E4M3", [2], bytes(2))
        write_bytes(self.folder / "scaled.safetensors", scaled)

        listed = json.loads(atelier("inspect", self.folder / "scaled.safetensors", "--json", "--tensors").out)
        self.assertEqual({t["name"] for t in listed["tensor_list"]}, set(tensors))
        self.assertEqual({t["name"] for t in listed["tensor_list"] if t["scaled"]}, set(matrices))
        self.assertIn("F8_E4M3 scaled", atelier("inspect", self.folder / "scaled.safetensors").out)
        self.draw(self.folder / "scaled.safetensors")

        for source in ("a", "scaled"):
            back = self.quantize(source + "32.safetensors", "F32", source=self.folder / (source + ".safetensors"))
            self.assertEqual(back.code, 0, back.err)
        plain, halved = (read_bytes(self.folder / name) for name in ("a32.safetensors", "scaled32.safetensors"))
        self.assertEqual(set(plain), set(halved))
        for name, (_, shape, data) in plain.items():
            factor = 0.5 if name in matrices else 1
            self.assertEqual(array.array("f", [factor * x for x in array.array("f", data)]).tobytes(),
                             halved[name][2], name)

        lost = layers[len(layers) // 2] + ".scale_weight"
        del scaled[lost]
        write_bytes(self.folder / "lost.safetensors", scaled)
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

    def test_totals_are_those_of_all_tensors(self):
        random.seed(3)
        numbers = {"blocks.0.weight": [random.gauss(0, 1) for _ in range(64 * 256)],
                   "blocks.0.bias": [random.gauss(0, 3) for _ in range(64)]}
        source = self.weights("o.safetensors", {
            name: ("F32", [64, 256] if len(x) > 64 else [64], struct.pack(f"<{len(x)}f", *x))
            for name, x in numbers.items()})
        result = self.quantize("a.gguf", "Q4_0", "--report", self.folder / "r.json", source=source)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(self.quantize("b.safetensors", "F32", source=self.folder / "a.gguf").code, 0)
        again = read_safetensors(self.folder / "b.safetensors")[1]
        pairs = [(a, b) for name, x in numbers.items() for a, b in zip(array.array("f", x), array.array("f", again[name]))]
        report = json.loads((self.folder / "r.json").read_text())
        rmse = math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
        cosine = sum(a * b for a, b in pairs) / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
        self.assertAlmostEqual(report["rmse"], rmse, 6)
        self.assertAlmostEqual(report["cosine"], cosine, 6)
        self.assertGreater(report["rmse"], 0.05)
        self.assertEqual(report["encodings"], [
            {"encoding": "F32", "tensors": 1, "from_bytes": 256, "bytes": 256},
            {"encoding": "Q4_0", "tensors": 1, "from_bytes": 65536, "bytes": 9216}])
        self.assertEqual([t["from_bytes"] for t in report["tensor_list"]], [256, 65536])
        text = atelier("quantize", source, self.folder / "c.gguf", "--type", "Q4_0").err
        self.assertRegex(text, r"type +tensors +before +after\n")
        self.assertRegex(text, r"Q4_0 +1 +64.0 KiB +9.00 KiB")

    def test_a_report_that_cannot_be_written_leaves_no_file(self):
        """Of many small tensors the report is larger than the file, and files may be no larger than 60 KB."""
        source = self.weights("o.safetensors", {f"t{i}": ("F32", [4], None) for i in range(500)})
        done = subprocess.run([BIN, "quantize", source, self.folder / "a.safetensors", "--type", "F16", "--report",
                               self.folder / "r.json"], capture_output=True, text=True, restore_signals=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("r.json: cannot be written", done.stderr)
        self.assertEqual(self.files(), ["o.safetensors"])

    def test_links_are_written_through(self):
        (self.folder / "there").mkdir()
        for name in ("a.gguf", "r.json"):
            (self.folder / name).symlink_to("there/" + name)
        for words in ((), ("--overwrite",)):
            result = self.quantize("a.gguf", "Q8_0", "--report", self.folder / "r.json", *words)
            self.assertEqual(result.code, 0, result.err)
            for name in ("a.gguf", "r.json"):
                self.assertTrue((self.folder / name).is_symlink())
                self.assertGreater((self.folder / "there" / name).stat().st_size, 1000)
            (self.folder / "there" / "a.gguf").chmod(0o600)
        self.assertEqual((self.folder / "there" / "a.gguf").stat().st_mode & 0o777, 0o600)
        self.assert_fails(self.quantize("a.gguf", "Q8_0"), 2, "exists already")
        (self.folder / "me.gguf").symlink_to(model("tiny"))
        self.assert_fails(self.quantize("me.gguf", "Q8_0", "--overwrite"), 2, "same file")

    def test_odd_names_are_refused_in_one_line(self):
        (self.folder / "one.gguf").symlink_to("two.gguf")
        (self.folder / "two.gguf").symlink_to("one.gguf")
        for out in ("x" * 300 + ".gguf", "one.gguf", "deep/" + "y" * 300 + "/a.gguf"):
            self.assert_fails(self.quantize(out, "Q8_0"), 1, "cannot be")
            self.assert_fails(self.quantize("a.gguf", "Q8_0", "--report", self.folder / out), 1, "cannot be")
        self.assertFalse((self.folder / "a.gguf").exists())

    def test_a_part_of_a_split_model_is_no_model(self):
        parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        for part, name in zip(parts, ("blocks.0.weight", "blocks.1.weight")):
            self.weights(part, {name: ("F32", [64, 64], None)})
        first = self.folder / parts[0]
        self.assert_fails(self.quantize("a.gguf", "Q8_0", source=first), 1, "one of 2 parts", "index")
        index = self.folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"blocks.0.weight": parts[0], "blocks.1.weight": parts[1]}}))
        self.assert_fails(self.quantize("a.gguf", "Q8_0", source=first), 1, "one of 2 parts", f"Give '{index}'")
        self.assert_fails(self.quantize(parts[1], "F16", "--overwrite", source=first), 1, "one of 2 parts")
        self.assert_fails(self.quantize(parts[1], "F16", "--overwrite", source=index), 2, "one of the files of IN")
        self.assertEqual(self.quantize("a.gguf", "Q8_0", source=index).code, 0)
        self.assertEqual(set(self.tensors(self.folder / "a.gguf")), {"blocks.0.weight", "blocks.1.weight"})
        whole = self.weights("one-00001-of-00001.safetensors", {"blocks.0.weight": ("F32", [64, 64], None)})
        self.assertEqual(self.quantize("b.gguf", "Q8_0", source=whole).code, 0)

    def test_a_disk_without_room_is_told_first(self):
        room = os.statvfs(self.folder)
        rows = max(1 << 20, 2 * room.f_bavail * room.f_frsize // 4096)
        try:
            source = self.weights("o.safetensors", {"blocks.0.weight": ("F16", [rows, 4096], None)})
        except OSError as error:
            self.skipTest(f"no file of this size: {error}")
        result = self.quantize("a.gguf", "Q8_0", source=source)
        self.assert_fails(result, 1, "a.gguf", "of room on its disk", "bytes too little")
        self.assertNotIn("quant_plan", result.out)

    def test_what_gguf_cannot_hold_is_told_first(self):
        source = self.weights("o.safetensors", {"blocks.0.weight": ("F32", [64, 64], None), "mask": ("BOOL", [64], None)})
        result = self.quantize("a.gguf", "Q8_0", source=source)
        self.assert_fails(result, 1, "'mask' is BOOL, which GGUF cannot hold")
        self.assertNotIn("quant_plan", result.out)

    def test_what_is_lost_is_named(self):
        random.seed(4)
        tiny = struct.pack("<4096f", *(random.gauss(0, 1e-10) for _ in range(4096)))
        source = self.weights("o.safetensors", {f"blocks.{i}.weight": ("F32", [64, 64], tiny) for i in range(5)})
        result = self.quantize("a.gguf", "Q8_0", source=source)
        self.assertEqual(result.code, 0, result.err)
        message = result.event("warning")["message"]
        self.assertIn("blocks.0.weight (Q8_0, 0.00), blocks.1.weight", message)
        self.assertIn("and 2 more", message)
        self.assertEqual(self.quantize("b.gguf", "Q8_0").out.count('"warning"'), 0)

    def test_ctrl_c_says_what_it_waits_for(self):
        source = self.weights("large.safetensors", {"blocks.0.weight": ("F16", [1 << 18, 4096], None)})
        ours, theirs = os.openpty()
        process = subprocess.Popen([BIN, "quantize", source, self.folder / "a.gguf", "--type", "Q2_K"],
                                   stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        said = b""
        while b"left" not in said:  # the bar, which moves within the one tensor
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:
            pass  # the other end is closed
        os.close(ours)
        self.assertEqual(process.wait(), 130)
        self.assertIn(b"no file will be left", said)
        self.assertNotIn(b"step", said)
        self.assertEqual(self.files(), ["large.safetensors"])

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
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Nobody reads the events of its many tensors, so that it waits in the midst of them.
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        self.assertTrue(select.select([process.stdout], [], [], 60)[0], "no plan")
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn(b"nothing was written", err)
        self.assertLess(out.count(b'"tensor"'), 900)
        self.assertEqual(os.listdir(self.folder), [])

    def weights(self, path, tensors, metadata=None):
        """A safetensors file of these {name: (dtype, shape, bytes or None for zeros)}, which take no room on disk."""
        header, position = {"__metadata__": metadata or {}}, 0
        for name, (kind, shape, data) in tensors.items():
            size = math.prod(shape) * {"F32": 4, "BF16": 2, "F16": 2, "BOOL": 1}[kind]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [position, position + size]}
            position += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(self.folder / path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, shape, data in tensors.values():
                if data is not None:
                    file.write(data)
            file.truncate(8 + len(text) + position)
        return self.folder / path

    def peak(self, source, kind):
        """Megabytes of memory at most while the file is quantised."""
        process = subprocess.Popen([BIN, "quantize", source, self.folder / "a.gguf", "--type", kind, "--overwrite"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        return usage.ru_maxrss / 1024

    def test_memory_does_not_grow_with_the_file(self):
        def megabytes(count):
            rows = count * 256  # of 2 KiB
            return {"blocks.0.weight": ("BF16", [rows, 1024], None), "embed.weight": ("BF16", [rows, 1024], None)}
        small = self.peak(self.weights("small.safetensors", megabytes(1)), "Q4_0")
        for kind in ("Q4_0", "Q4_K_S"):
            large = self.peak(self.weights("large.safetensors", megabytes(400)), kind)
            self.assertLess(large, small + 100)

    def test_what_is_no_number_is_kept_by_floats_and_refused_by_blocks(self):
        odd = struct.pack("<4f", math.nan, math.inf, -0.0, 1e-40) + bytes(4 * (64 * 64 - 4))
        source = self.weights("odd.safetensors", {"blocks.0.weight": ("F32", [64, 64], odd),
                                                  "norm": ("F32", [4], odd[:16]), "none": ("F32", [0, 32], b"")})
        for kind, out in (("F32", "a.safetensors"), ("F32", "a.gguf")):
            result = self.quantize(out, kind, "--overwrite", source=source)
            self.assertEqual(result.code, 0, result.err)
            self.assertEqual(set(self.tensors(self.folder / out)), {"blocks.0.weight", "norm", "none"})
        self.assertEqual(read_safetensors(self.folder / "a.safetensors")[1]["blocks.0.weight"], odd)
        self.assertEqual(self.quantize("b.safetensors", "BF16", source=source).code, 0)
        half = read_safetensors(self.folder / "b.safetensors")[1]["blocks.0.weight"]
        self.assertEqual(struct.unpack_from("<2H", half), (0x7fc0, 0x7f80))
        self.assert_fails(self.quantize("c.gguf", "Q8_0", source=source), 1, "odd.safetensors: tensor 'blocks.0.weight'",
                          "BF16 or F32")

    def test_importance_is_collected_added_to_and_used(self):
        matrix = self.folder / "i.gguf"
        weights = []
        for _ in range(2):
            result = atelier("generate", "-m", model("tiny"), *DRAW, "--overwrite", "--out", self.folder / "a.png",
                             "--collect-imatrix", matrix)
            self.assertEqual(result.code, 0, result.err)
            self.assertEqual(result.event("imatrix")["file"], str(matrix))
            weights.append(result.event("imatrix")["weights"])
        self.assertGreater(weights[0], 100)
        self.assertEqual(weights[0], weights[1])
        plain = self.quantize("p.gguf", "Q4_0")
        weighed = self.quantize("w.gguf", "Q4_0", "--imatrix", matrix)
        self.assertEqual(weighed.code, 0, weighed.err)
        self.assertGreater(weighed.event("quant_plan")["weighed"], 50)
        self.assertNotIn("weighed", plain.event("quant_plan"))
        self.assertNotEqual((self.folder / "p.gguf").read_bytes(), (self.folder / "w.gguf").read_bytes())
        self.draw(self.folder / "w.gguf")
        drawn = self.draw(model("tiny"))
        self.assertEqual(drawn.rows, Png(self.folder / "a.png").rows)

    def test_importance_of_another_kind_is_refused_or_warned_of(self):
        for words, code in ((("--imatrix", model("tiny")), 1), (("--imatrix", self.folder / "none.gguf"), 1)):
            self.assert_fails(self.quantize("a.gguf", "Q4_0", *words), code, words[1].name)
        (self.folder / "i.gguf").write_bytes(b"nothing")
        result = atelier("generate", "-m", model("tiny"), *DRAW, "--out", self.folder / "a.png", "--collect-imatrix",
                         self.folder / "i.gguf")
        self.assert_fails(result, 1, "i.gguf")
        self.assertEqual((self.folder / "i.gguf").read_bytes(), b"nothing")
        self.assertFalse((self.folder / "a.png").exists())
        os.remove(self.folder / "i.gguf")
        atelier("generate", "-m", model("tiny"), *DRAW, "--out", self.folder / "a.png", "--collect-imatrix",
                self.folder / "i.gguf")
        source = self.weights("o.safetensors", {"blocks.0.weight": ("F32", [64, 64], None)})
        result = self.quantize("o.gguf", "Q4_0", "--imatrix", self.folder / "i.gguf", source=source)
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("has no entry", result.event("warning")["message"])
        for kind, file, words in (("fp8.safetensors", model("tiny"), "rounds each number by itself"),
                                  ("Q8_0.gguf", model("tiny"), "has no effect: Q8_0's scales"),
                                  ("Q4_0.gguf", model("tiny-xl"), "may be of another model")):
            result = self.quantize(kind, kind.split(".")[0], "--imatrix", self.folder / "i.gguf", source=file)
            self.assertEqual(result.code, 0, result.err)
            self.assertIn(words, result.event("warning")["message"])
            self.assertTrue(kind.startswith("Q4_0") or result.event("quant_plan")["weighed"] == 0)

    def test_a_type_that_suits_no_row_is_told(self):
        source = self.weights("o.safetensors", {"blocks.0.weight": ("F32", [64, 64], None)})
        result = self.quantize("o.gguf", "Q4_K_M", source=source)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.event("warning")["message"], "no tensor's rows suit Q4_K; Q5_0 take its place")
        source = self.weights("r.safetensors", {"blocks.0.weight": ("F32", [64, 64], None),
                                                "blocks.0.to_v.weight": ("F32", [64, 256], None)})
        result = self.quantize("r.gguf", "Q4_K_M", source=source)
        self.assertEqual(self.tensors(self.folder / "r.gguf")["blocks.0.to_v.weight"], "Q6_K")
        self.assertEqual(result.event("warning")["message"], "no tensor's rows suit Q4_K; Q5_0 take its place")
        source = self.weights("v.safetensors", {"blocks.0.weight": ("F32", [64], None)})
        result = self.quantize("v.gguf", "Q8_0", source=source)
        self.assertIn("nothing is written in Q8_0", result.event("warning")["message"])


class FitTable(Case):
    def flux(self, dtype="BF16", size=2):
        """FLUX.1 dev's transformer in its real size, all zeros, which take no room on disk."""
        tensors, hidden = {}, 3072

        def linear(name, out, inputs):
            tensors.update({name + ".weight": [out, inputs], name + ".bias": [out]})
        for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
            linear(name + ".in_layer", hidden, inputs)
            linear(name + ".out_layer", hidden, hidden)
        linear("img_in", hidden, 64)
        linear("txt_in", hidden, 4096)
        for i in range(19):
            for part in ("img", "txt"):
                block = f"double_blocks.{i}.{part}_"
                linear(block + "mod.lin", 6 * hidden, hidden)
                linear(block + "attn.qkv", 3 * hidden, hidden)
                linear(block + "attn.proj", hidden, hidden)
                linear(block + "mlp.0", 4 * hidden, hidden)
                linear(block + "mlp.2", hidden, 4 * hidden)
                tensors.update({block + "attn.norm.query_norm.scale": [128], block + "attn.norm.key_norm.scale": [128]})
        for i in range(38):
            block = f"single_blocks.{i}."
            linear(block + "linear1", 7 * hidden, hidden)
            linear(block + "linear2", hidden, 5 * hidden)
            linear(block + "modulation.lin", 3 * hidden, hidden)
            tensors.update({block + "norm.query_norm.scale": [128], block + "norm.key_norm.scale": [128]})
        linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
        linear("final_layer.linear", 64, hidden)
        header, position = {}, 0
        for name, shape in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape,
                            "data_offsets": [position, position + size * math.prod(shape)]}
            position += size * math.prod(shape)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = self.folder / "flux.safetensors"
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + position)
        return path

    def fits(self, path):
        result = atelier("inspect", path, "--json")
        self.assertEqual(result.code, 0, result.err)
        return json.loads(result.out)["model"]["fits"]

    def test_says_which_encoding_fits_which_memory(self):
        path = self.flux()
        fits = self.fits(path)
        self.assertEqual([memory >> 30 for memory in fits["memory"]], [8, 12, 16, 24])
        order = [t["name"] for t in atelier("quantize", "--list", "--json").event("quant_types")["types"]] + [""]
        last = None
        for row in fits["rows"]:
            kinds = [order.index(kind) for kind in row["types"]]
            self.assertEqual(kinds, sorted(kinds, reverse=True), "more memory, finer type")
            if last:
                self.assertTrue(all(a >= b for a, b in zip(kinds, last)), "larger picture, coarser type")
            last = kinds
        # 11.9 thousand million weights: 22 GiB in F16, 12 in Q8_0, 6.5 to 7 in Q4_K_M.
        self.assertEqual(fits["missing"], ["clip_l", "t5xxl", "vae"])
        self.assertIn("without clip_l, t5xxl, vae, which this file lacks", atelier("inspect", path).out)
        square = next(row for row in fits["rows"] if row["width"] == 1024)
        self.assertEqual(square["types"], ["Q3_K_M", "Q6_K", "Q8_0", "Q8_0"])
        self.assertEqual(fits["reserved"], 1 << 30)
        text = atelier("inspect", path).out
        self.assertIn("1024x1024", text)
        self.assertIn("8.00 GiB", text)

    def test_no_type_is_finer_than_the_file(self):
        square = next(row for row in self.fits(self.flux("F8_E4M3", 1))["rows"] if row["width"] == 1024)
        self.assertEqual(square["types"], ["Q3_K_M", "Q6_K", "F8_E4M3", "F8_E4M3"])
        for source, kind, shown in (("tiny-flux", "Q8_0", "Q8_0"), ("tiny-xl", "Q4_0", "Q4_0")):
            path = self.folder / f"{source}.gguf"
            self.assertEqual(atelier("quantize", model(source), path, "--type", kind).code, 0)
            for row in self.fits(path)["rows"]:
                self.assertEqual(row["types"], [shown] * 4)

    def test_a_small_model_fits_as_it_is(self):
        fits = self.fits(model("tiny"))
        self.assertEqual(fits["missing"], [])
        for row in fits["rows"]:
            self.assertEqual(row["types"], ["F16"] * 4)
            self.assertEqual(row["tiled"], [False] * 4)


if __name__ == "__main__":
    unittest.main()
