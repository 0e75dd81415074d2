#!/usr/bin/env python3
"""`atelier generate --lora` on the tiny checkpoint: what it changes, tells and refuses."""
import json
import random
import struct
import unittest

from harness import Case, Png, atelier, model

SMALL = ("--width", "64", "--height", "64", "--steps", "2", "--seed", "7")
ATTENTION = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_{}"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_{}_proj"


def write_lora(path, modules, rank=2, scale=0.5):
    """kohya's spelling in fp32: (name, rows, columns) each."""
    source, header, body = random.Random(5), {}, b""
    for name, rows, columns in modules:
        for leaf, shape in (("lora_up", [rows, rank]), ("lora_down", [rank, columns])):
            values = [scale * source.gauss(0, 1) for _ in range(shape[0] * shape[1])]
            data = struct.pack(f"<{len(values)}f", *values)
            header[f"{name}.{leaf}.weight"] = {"dtype": "F32", "shape": shape,
                                               "data_offsets": [len(body), len(body) + len(data)]}
            body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


class Lora(Case):
    def setUp(self):
        super().setUp()
        unet = [(ATTENTION.format(x), 32, 32) for x in "qkv"]
        text = [(TEXT.format(x), 64, 64) for x in "qkv"]
        self.file = write_lora(self.folder / "style.safetensors", unet + text)

    def draw(self, *words, prompt="a red circle", out="a.png"):
        file = () if "-m" in words else ("-m", model("tiny"))
        return atelier("generate", *file, "-p", prompt, *SMALL, "--json", "--overwrite", "--out", self.folder / out,
                       *words)

    def picture(self, *words, **more):
        result = self.draw(*words, **more)
        self.assertEqual(result.code, 0, result.err)
        return Png(result.event("image")["file"])

    def test_changes_the_picture_by_its_strength(self):
        plain, full = self.picture(), self.picture("--lora", self.file)
        self.assertGreater(plain.difference(full), 0)
        self.assertGreater(full.difference(self.picture("--lora", f"{self.file}:-1")), 0)
        self.assertEqual(plain.rows, self.picture("--lora", f"{self.file}:0").rows)
        self.assertEqual(full.rows, self.picture("--lora", f"{self.file}:1:1").rows)
        self.assertEqual(full.rows, self.picture("--lora", f"{self.file}:1").rows)

    def test_counts_for_the_text_encoder_alone(self):
        plain = self.picture()
        text, unet = self.picture("--lora", f"{self.file}:0:1"), self.picture("--lora", f"{self.file}:1:0")
        self.assertGreater(plain.difference(text), 0)
        self.assertGreater(text.difference(unet), 0)

    def test_counts_by_blocks(self):
        off = self.picture("--lora", f"{self.file}:1:0:blocks=IN01=0")
        self.assertEqual(off.rows, self.picture().rows)
        on = self.picture("--lora", f"{self.file}:1:0:blocks=IN02=0,OUT=0.5")
        self.assertEqual(on.rows, self.picture("--lora", f"{self.file}:1:0").rows)
        self.assert_fails(self.draw("--lora", f"{self.file}:blocks=IN99=1"), 2, "IN99", "style.safetensors")

    def test_runs_beside_quantised_weights(self):
        quantised = self.folder / "tiny.gguf"
        made = atelier("quantize", model("tiny"), quantised, "--type", "Q8_0")
        self.assertEqual(made.code, 0, made.err)
        words = ("-m", quantised, "--lora", f"{self.file}:0.8")
        pictures = [self.picture("--lora", f"{self.file}:0.8"), self.picture("-m", quantised), self.picture(*words)]
        merged, plain, beside = pictures
        self.assertGreater(plain.difference(beside), 4 * merged.difference(beside))
        self.assertEqual(beside.rows, self.picture(*words, "--threads", "1").rows)

    def test_several_are_told_in_the_plan_and_the_picture(self):
        other = write_lora(self.folder / "b:2.safetensors", [(ATTENTION.format("q"), 32, 32)])
        result = self.draw("--lora", f"{self.file}:0.5", "--lora", f"{other}:-0.25:blocks=OUT=0")
        self.assertEqual(result.code, 0, result.err)
        told = [{"file": "style.safetensors", "strength": 0.5, "text_strength": 0.5},
                {"file": "b:2.safetensors", "strength": -0.25, "text_strength": -0.25, "blocks": "OUT=0"}]
        self.assertEqual(result.event("plan")["loras"], told)
        picture = Png(result.event("image")["file"])
        self.assertEqual(json.loads(picture.text["atelier"])["loras"], told)

    def test_names_that_mean_nothing_are_told_once(self):
        file = write_lora(self.folder / "part.safetensors",
                          [(ATTENTION.format(x), 32, 32) for x in "qkw"])
        result = self.draw("--lora", file)
        self.assertEqual(result.code, 0, result.err)
        warning = result.event("warning")["message"]
        for word in ("part.safetensors", "1 name means nothing", "attn1_to_w", "did you mean"):
            self.assertIn(word, warning)

    def test_every_name_that_means_nothing_can_be_seen(self):
        many = write_lora(self.folder / "many.safetensors", [(ATTENTION.format(x), 32, 32) for x in "qkv"] +
                          [(TEXT.format("q") + f"_{i}", 64, 64) for i in range(8)])
        warning = self.draw("--lora", many).event("warning")
        self.assertIn("8 names mean nothing", warning["message"])
        self.assertIn("and 3 more", warning["message"])
        self.assertEqual([item.split(" ")[0] for item in warning["items"]], [TEXT.format("q") + f"_{i}" for i in range(8)])
        for item in warning["items"]:
            self.assertIn(f"(did you mean {TEXT.format('q')}?)", item)
        words = ("generate", "-m", model("tiny"), "-p", "x", *SMALL, "--lora", many, "--out", self.folder / "a.png")
        short, full = atelier(*words).err, atelier(*words, "--verbose").err
        self.assertIn("(--verbose lists all)", short)
        self.assertNotIn(warning["items"][-1], short)
        for item in warning["items"]:
            self.assertIn(f"\n  {item}\n", full)

    def test_one_for_another_model_is_refused(self):
        file = write_lora(self.folder / "flux.safetensors", [("lora_unet_double_blocks_0_img_attn_qkv", 96, 32)])
        self.assert_fails(self.draw("--lora", file), 1, "flux.safetensors", "a LoRA for Stable Diffusion 1.x",
                          "one for FLUX.1")
        self.assert_fails(self.draw("--lora", model("tiny")), 1, "tiny.safetensors", "expected a LoRA, found a file of",
                          "Stable Diffusion 1.x")
        self.assertNotIn("a.png", self.files())

    def test_wrong_words_are_refused_before_anything_is_opened(self):
        self.assert_fails(self.draw("--lora", self.folder / "stile.safetensors"), 1, "--lora", "does not exist",
                          "Did you mean")
        self.assert_fails(self.draw("--lora", f"{self.file}:200"), 2, "--lora", "-100 to 100")
        self.assert_fails(self.draw("--lora", self.folder), 1, "--lora", "is a folder")

    def test_prompts_are_no_place_for_it(self):
        result = self.draw(prompt="a cat <lora:style:1>")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("--lora FILE:STRENGTH", result.event("warning")["message"])


if __name__ == "__main__":
    unittest.main()
