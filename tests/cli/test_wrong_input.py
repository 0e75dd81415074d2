#!/usr/bin/env python3
"""Files of the wrong kind in the right place: one line each that says what it is, and nothing else is touched."""
import json
import os
import shutil
import subprocess
import unittest

from harness import (BIN, ROOT, Case, Png, atelier, model, read_bytes, read_safetensors, write_bytes,
                     write_png)

TOKENIZER = ROOT / "tests/golden/t5/spiece.model"
DRAW = ("-p", "a red circle", "--seed", "7", "--width", "64", "--height", "64", "--steps", "1", "--json")
VALUE = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"


class Typed(Case):
    """Cases that write files of {name: (dtype, shape, bytes)}."""

    def write(self, name, tensors):
        write_bytes(self.folder / name, tensors)
        return self.folder / name

    def lora(self, name, modules, rank=2):
        tensors = {}
        for key, rows, columns in modules:
            tensors[key + ".lora_down.weight"] = ("F32", (rank, columns), bytes(4 * rank * columns))
            tensors[key + ".lora_up.weight"] = ("F32", (rows, rank), bytes(4 * rank * rows))
        return self.write(name, tensors)

    def draw(self, *words):
        return atelier("generate", *words, *DRAW, "--out", self.folder / "a.png", timeout=60)


class WrongKinds(Typed):
    def test_a_file_that_is_no_model_says_where_it_belongs(self):
        lora = self.lora("style.safetensors", [("lora_unet_middle_block_1_proj_in", 32, 32)])
        self.assert_fails(self.draw("-m", lora), 1, "style.safetensors", "a diffusion model", "a LoRA", "--lora")
        self.assert_fails(self.draw("-m", model("tiny-flux", "vae")), 1, "no diffusion model", "an autoencoder", "--vae")
        matrix = self.folder / "i.gguf"
        self.assertEqual(self.draw("-m", model("tiny"), "--collect-imatrix", matrix).code, 0)
        self.assert_fails(self.draw("-m", matrix), 1, "i.gguf", "importance matrix", "--imatrix")
        text = self.folder / "notes.safetensors"
        text.write_text("not a model\n")
        self.assert_fails(self.draw("-m", text), 1, "notes.safetensors", "found a text")
        self.assert_fails(self.draw("-m", model("tiny"), "--preview", self.folder / "p.png", "--preview-decoder",
                                    model("tiny-flux", "vae")), 1, "TAESD", "it is an autoencoder (VAE)", "--vae")

    def test_other_versions_of_t5_are_named(self):
        t5 = read_bytes(model("tiny-flux", "t5"))
        bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        first = {name.replace("DenseReluDense.wi_0", "DenseReluDense.wi"): row for name, row in t5.items() if "wi_1" not in name}
        for tensors, what in ((t5 | {bias.replace("block.0", "block.1"): t5[bias]}, "a UMT5"), (first, "first version")):
            result = self.draw("--unet", model("tiny-flux", "transformer"), "--vae", model("tiny-flux", "vae"), "--t5",
                               self.write("t5.safetensors", tensors), "--clip-l", model("tiny-flux", "clip-l"))
            self.assert_fails(result, 1, "t5.safetensors", what, "version 1.1")

    def test_a_prompt_that_an_encoder_cannot_take_names_its_file(self):
        parts = {"--unet": model("tiny-flux", "transformer"), "--vae": model("tiny-flux", "vae"),
                 "--t5": model("tiny-flux", "t5"), "--clip-l": model("tiny-flux", "clip-l"), "--t5-tokenizer": TOKENIZER}
        words = [word for part in parts.items() for word in part]
        self.assert_fails(self.draw(*words, "-p", "lighthouse " * 5000), 2, "tiny-flux-t5.safetensors", "at most 4096 tokens",
                          "found 25001")
        name = "text_model.embeddings.position_embedding.weight"
        tensors = read_bytes(parts["--clip-l"])
        dtype, (rows, width), data = tensors[name]
        tensors[name] = (dtype, [10, width], data[:10 * len(data) // rows])
        parts["--clip-l"] = self.write("short.safetensors", tensors)
        self.assert_fails(self.draw(*[word for part in parts.items() for word in part]), 2, "short.safetensors",
                          "at most 10 tokens", "found 77")

    def test_a_damaged_denoiser_is_not_called_by_what_lies_beside_it(self):
        tensors = {name: row for name, row in read_bytes(model("tiny")).items()
                   if not name.startswith("model.diffusion_model.out.")}
        result = self.draw("-m", self.write("pruned.safetensors", tensors))
        self.assert_fails(result, 1, "pruned.safetensors", "found a unet in the original layout")
        self.assertNotIn("autoencoder", result.err)

    def test_an_importance_matrix_of_another_model_is_named(self):
        matrix = self.folder / "i.gguf"
        self.assertEqual(self.draw("-m", model("tiny"), "--collect-imatrix", matrix).code, 0)
        before = matrix.read_bytes()
        self.assert_fails(self.draw("-m", model("tiny-xl"), "--collect-imatrix", matrix), 1, "i.gguf",
                          "collected with another model")
        self.assertEqual(matrix.read_bytes(), before)

    def test_a_loras_origin_is_never_the_model_itself(self):
        lora = self.lora("t5.safetensors", [(f"lora_te2_encoder_block_{i}_layer_0_SelfAttention_q", 64, 64)
                                            for i in range(2)])
        result = self.draw("-m", model("tiny-xl"), "--lora", lora)
        self.assert_fails(result, 1, "expected a LoRA for Stable Diffusion XL", "T5")
        self.assertNotIn("found one for Stable Diffusion XL", result.err)

    def test_what_belongs_elsewhere_is_named_in_the_place_of_a_part(self):
        others = [(self.lora("style.safetensors", [("lora_unet_middle_block_1_proj_in", 32, 32)]), "a LoRA", "--lora"),
                  (self.write("turned.safetensors", {"m.oft_R.weight": ("F32", (2, 6), bytes(48))}), "an OFT", "--lora"),
                  (self.write("old.safetensors", {"emb_params": ("F32", (1, 64), bytes(256))}), "a textual inversion",
                   "--embeddings"),
                  (self.write("xl.safetensors", {"clip_l": ("F32", (1, 64), bytes(256)),
                                                 "clip_g": ("F32", (1, 64), bytes(256))}), "a textual inversion",
                   "--embeddings")]
        flux = ("--unet", model("tiny-flux", "transformer"), "--clip-l", model("tiny-flux", "clip-l"), "--vae",
                model("tiny-flux", "vae"), "--t5-tokenizer", TOKENIZER)
        places = [("-m", model("tiny"), "--vae"), ("-m", model("tiny"), "--clip-l"),
                  ("-m", model("tiny"), "--text-encoder"), (*flux, "--t5"),
                  ("-m", model("tiny"), "--preview", self.folder / "p.png", "--preview-decoder")]
        for file, what, option in others:
            for place in places:
                with self.subTest(file=file.name, option=place[-1]):
                    self.assert_fails(self.draw(*place, file), 1, file.name, f"it is {what}", option)

    def test_an_unknown_vae_is_not_sent_back_where_it_came_from(self):
        vae = self.write("vae.safetensors", {"decoder.conv_in.weight": ("F32", (2, 2, 3, 3), bytes(144))})
        self.assert_fails(self.draw("-m", model("tiny"), "--clip-l", vae), 1, "an autoencoder (VAE) alone", "--vae")
        result = self.draw("-m", model("tiny"), "--vae", vae)
        self.assert_fails(result, 1, "holds no VAE that this program knows")
        self.assertNotIn("Give it", result.err)

    def test_a_lora_that_is_none(self):
        inversion = self.write("word.safetensors", {"emb_params": ("F32", (1, 64), bytes(256))})
        vae = self.write("vae.safetensors", {"decoder.conv_in.weight": ("F32", (2, 2, 3, 3), bytes(144))})
        for file, kind, option in ((inversion, "a textual inversion", "--embeddings"),
                                   (vae, "an autoencoder (VAE) alone", "--vae")):
            self.assert_fails(self.draw("-m", model("tiny"), "--lora", file), 1, f"expected a LoRA, found {kind}", option)
        for file, kind in ((model("tiny-flux", "vae"), "autoencoder"), (model("tiny-xl"), "Stable Diffusion XL")):
            self.assert_fails(self.draw("-m", model("tiny"), "--lora", file), 1, "expected a LoRA, found", kind)

    def test_a_lora_of_integers_without_scales(self):
        key = "lora_unet_middle_block_1_proj_in"
        lora = self.write("i8.safetensors", {key + ".lora_down.weight": ("I8", (2, 32), bytes(64)),
                                             key + ".lora_up.weight": ("F32", (32, 2), bytes(256))})
        self.assert_fails(self.draw("-m", model("tiny"), "--lora", lora), 1, "i8.safetensors", "lora_down",
                          "I8 without scales")

    def test_what_is_no_model_is_not_quantised(self):
        lora = self.lora("style.safetensors", [("lora_unet_middle_block_1_proj_in", 64, 64)], rank=32)
        matrix = self.folder / "i.gguf"
        self.assertEqual(self.draw("-m", model("tiny"), "--collect-imatrix", matrix).code, 0)
        for file, kind in ((lora, "a LoRA"), (matrix, "an importance matrix"),
                           (model("tiny-flux", "vae"), "an autoencoder (VAE) alone")):
            result = atelier("quantize", file, self.folder / "q.gguf", "--type", "Q8_0")
            self.assert_fails(result, 1, file.name, f"expected a model, found {kind}", "F16, BF16 or F32")
        half = self.folder / "half.safetensors"
        self.assertEqual(atelier("quantize", lora, half, "--type", "F16").code, 0)
        self.assertEqual({row[0] for row in read_bytes(half).values()}, {"F16"})
        result = self.draw("-m", model("tiny"), "--lora", half)
        self.assertEqual(result.code, 0, result.err)

    def test_endings_may_be_capitals(self):
        out = self.folder / "Q.GGUF"
        self.assertEqual(atelier("quantize", model("tiny"), out, "--type", "Q8_0").code, 0)
        self.assertEqual(self.draw("-m", out).code, 0)

    def test_pictures_of_no_numbers_name_the_part(self):
        for piece, part in (("model.diffusion_model.out.2.weight", "UNet"),
                            ("first_stage_model.decoder.conv_out.weight", "VAE")):
            tensors = read_bytes(model("tiny"))
            dtype, shape, data = tensors[piece]
            tensors[piece] = (dtype, shape, b"\xff" * len(data))
            result = self.draw("-m", self.write("nan.safetensors", tensors), "--overwrite")
            self.assertEqual(result.code, 0, result.err)
            self.assertIn(f"the {part} gave numbers that are not finite", result.event("warning")["message"])
            self.assertEqual({sample for row in Png(self.folder / "a.png").rows for sample in row}, {0})

    def test_strengths_behind_blocks_are_told(self):
        lora = self.lora("a.safetensors", [("lora_unet_middle_block_1_proj_in", 32, 32)])
        self.assert_fails(self.draw("-m", model("tiny"), "--lora", f"{lora}:0.5:blocks=IN=1:0.3"), 2, "--lora",
                          "blocks=LIST behind the strengths")

    def test_an_encoder_given_twice(self):
        clip = model("tiny-flux", "clip-l")
        for words in (("--text-encoder", clip, clip), ("--text-encoder", clip, "--clip-l", clip)):
            result = self.draw("-m", model("tiny-flux"), "--t5-tokenizer", TOKENIZER, *words)
            self.assert_fails(result, 1, "holds the text encoder clip_l, for which another file is given")

    def test_an_encoder_of_another_models_checkpoint(self):
        clip = self.folder / "flux.safetensors"
        shutil.copy(model("tiny-flux"), clip)
        self.assertEqual(self.draw("-m", model("tiny"), "--clip-l", clip).code, 0)
        self.assertEqual(self.draw("-m", model("tiny-flux"), "--t5-tokenizer", TOKENIZER, "--clip-l", model("tiny"),
                                   "--overwrite").code, 0)
        self.assert_fails(self.draw("-m", model("tiny"), "--clip-l", model("tiny-sd2")), 1, "tiny-sd2",
                          "holds no text encoder clip_l")

    def test_a_tokenizer_that_is_none(self):
        for content in (b"hello", b"\x89PNG\r\n\x1a\n"):
            (self.folder / "spiece.model").write_bytes(content)
            result = self.draw("-m", model("tiny-flux"), "--t5-tokenizer", self.folder / "spiece.model")
            self.assert_fails(result, 1, "spiece.model", "expected spiece.model or tokenizer.json of a T5")

    def test_pipes_are_not_waited_for(self):
        pipe = self.folder / "i.gguf"
        os.mkfifo(pipe)
        self.assert_fails(self.draw("-m", model("tiny"), "--collect-imatrix", pipe), 1, "i.gguf", "a pipe or device")

    def test_what_does_not_fit_is_in_the_line(self):
        tensors = read_bytes(model("tiny"))
        del tensors[VALUE]
        self.assert_fails(self.draw("-m", self.write("a.safetensors", tensors)), 1,
                          "1 tensor does not fit the model: missing", VALUE)


class WrongScales(Typed):
    """Matrices whose numbers mean nothing without what is missing."""

    def test_integers_without_scales(self):
        tensors = read_bytes(model("tiny"))
        for dtype in ("I8", "U8"):
            _, shape, data = tensors[VALUE]
            tensors[VALUE] = (dtype, shape, data[:shape[0] * shape[1]])
            path = self.write("a.safetensors", tensors)
            self.assert_fails(self.draw("-m", path), 1, VALUE, f"stored as {dtype} without the scales")
            tensors = read_bytes(model("tiny"))

    def test_four_bits_without_their_state(self):
        tensors = read_bytes(model("tiny"))
        _, shape, _ = tensors[VALUE]
        count = shape[0] * shape[1]
        tensors[VALUE] = ("U8", [count // 2, 1], bytes(count // 2))
        tensors[VALUE + ".absmax"] = ("F32", [count // 64], bytes(count // 16))
        path = self.write("a.safetensors", tensors)
        for result in (self.draw("-m", path), atelier("inspect", path),
                       atelier("quantize", path, self.folder / "b.gguf", "--type", "Q8_0")):
            self.assert_fails(result, 1, "a.safetensors", VALUE + ".quant_state.bitsandbytes__nf4")
        self.assertEqual(self.files(), ["a.safetensors"])

    def test_bytes_that_gguf_cannot_hold(self):
        tensors = {"blocks.0.weight": ("F32", [64, 64], bytes(4 * 64 * 64)), "marks": ("U8", [3], b"abc")}
        path = self.write("a.safetensors", tensors)
        self.assert_fails(atelier("quantize", path, self.folder / "b.gguf", "--type", "Q8_0"), 1, "a.safetensors",
                          "'marks' is U8")
        self.assertEqual(atelier("quantize", path, self.folder / "b.safetensors", "--type", "BF16").code, 0)
        self.assertEqual(read_safetensors(self.folder / "b.safetensors")[1]["marks"], b"abc")

    def test_a_t5s_tokenizer_stays_in_its_file(self):
        tensors = read_bytes(model("tiny-flux", "t5"))
        tokenizer = TOKENIZER.read_bytes()
        tensors["spiece_model"] = ("U8", [len(tokenizer)], tokenizer)
        path, out = self.write("t5.safetensors", tensors), self.folder / "t5.gguf"
        result = atelier("quantize", path, out, "--type", "Q8_0")
        self.assertEqual(result.code, 0, result.err)
        result = self.draw("--unet", model("tiny-flux", "transformer"), "--clip-l", model("tiny-flux", "clip-l"),
                           "--vae", model("tiny-flux", "vae"), "--t5", out)
        self.assertEqual(result.code, 0, result.err)


class Replacing(Typed):
    """What a written file may take the place of."""

    def quantize(self, *words):
        return atelier("quantize", *words, "--type", "Q8_0", timeout=60)

    def test_a_report_replaces_neither_input_nor_output(self):
        source, out = self.folder / "a.safetensors", self.folder / "b.gguf"
        shutil.copy(model("tiny"), source)
        before = source.read_bytes()
        self.assert_fails(self.quantize(source, out, "--report", source, "--overwrite"), 2, "--report",
                          "would be replaced")
        self.assert_fails(self.quantize(source, out, "--report", out), 2, "--report", "same file")
        report = self.folder / "r.json"
        report.write_text("mine")
        self.assert_fails(self.quantize(source, out, "--report", report), 2, "r.json", "exists already")
        self.assert_fails(self.quantize(source, out, "--report", self.folder), 1, "--report", "a folder")
        self.assertEqual((source.read_bytes(), report.read_text()), (before, "mine"))
        self.assertEqual(self.files(), ["a.safetensors", "r.json"])
        self.assertEqual(self.quantize(source, out, "--report", report, "--overwrite").code, 0)
        self.assertEqual(report.read_text()[0], "{")

    def test_output_is_none_of_the_shards(self):
        tensors = sorted(read_bytes(model("tiny")).items())
        names = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
        for name, part in zip(names, (tensors[:400], tensors[400:])):
            self.write(name, dict(part))
        index = self.folder / "m.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {key: names[i >= 400] for i, (key, _) in enumerate(tensors)}}))
        before = (self.folder / names[1]).read_bytes()
        for words in ((self.folder / names[1], "--overwrite"),
                      (self.folder / "b.gguf", "--report", self.folder / names[1], "--overwrite")):
            self.assert_fails(self.quantize(index, *words), 2, names[1], "one of the files of IN")
        self.assertEqual((self.folder / names[1]).read_bytes(), before)
        self.assertEqual(self.quantize(index, self.folder / "b.gguf").code, 0)
        self.assertEqual(self.quantize(index, self.folder / "b.gguf", "--overwrite").code, 0)

    def test_output_is_no_file_of_the_folder_that_is_read(self):
        source = self.folder / "model"
        for place in ("", "unet", "unet/deeper"):
            (source / place).mkdir(parents=True, exist_ok=True)
            file = source / place / "weights.safetensors"
            file.write_bytes(b"mine")
            self.assert_fails(self.quantize(source, file, "--overwrite"), 2, "one of the files of IN")
            self.assertEqual(file.read_bytes(), b"mine")

    def test_output_does_not_replace_the_importance_matrix(self):
        matrix = self.folder / "i.gguf"
        self.assertEqual(self.draw("-m", model("tiny"), "--collect-imatrix", matrix).code, 0)
        before = matrix.read_bytes()
        self.assert_fails(self.quantize(model("tiny"), matrix, "--imatrix", matrix, "--overwrite"), 2, "--imatrix",
                          "would be replaced")
        self.assertEqual(matrix.read_bytes(), before)

    def test_pipes_and_folders_stay_what_they_are(self):
        pipe, folder = self.folder / "p.gguf", self.folder / "d.gguf"
        os.mkfifo(pipe)
        folder.mkdir()
        self.assert_fails(self.quantize(model("tiny"), pipe, "--overwrite"), 1, "p.gguf", "a pipe or device")
        self.assert_fails(self.quantize(model("tiny"), folder, "--overwrite"), 1, "d.gguf", "a folder")
        self.assertTrue(pipe.is_fifo() and folder.is_dir())
        self.assertEqual(self.files(), ["d.gguf", "p.gguf"])

    def test_a_preview_is_no_picture_that_is_drawn_from(self):
        picture = self.folder / "init.png"
        write_png(picture, 64, 64, lambda x, y: (x, y, 0))
        before = picture.read_bytes()
        self.assert_fails(self.draw("-m", model("tiny"), "--init-image", picture, "--preview", picture), 2, "--preview",
                          "--init-image")
        self.assertEqual(picture.read_bytes(), before)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BIN, "inspect", model("tiny")], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("error: standard output", done.stderr)


if __name__ == "__main__":
    unittest.main()
