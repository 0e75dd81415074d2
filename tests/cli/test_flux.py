#!/usr/bin/env python3
"""`atelier generate` with FLUX.1 on tiny checkpoints with random weights: files, defaults, editing variants."""
import json
import shutil
import struct
import unittest

from harness import ROOT, Case, Png, atelier, model, read_safetensors, write_png, write_safetensors

TOKENIZER = ROOT / "tests/golden/t5/spiece.model"
SMALL = ("--width", "64", "--height", "64", "--steps", "3")


class Draws(Case):
    """Cases that draw 64x64 in 3 steps unless they say otherwise."""

    def draw(self, *words, kind="tiny-flux", files=None, prompt="a red circle", small=SMALL, out="a.png"):
        files = files or ("-m", model(kind))
        return atelier("generate", *files, "--t5-tokenizer", TOKENIZER, "-p", prompt, "--seed", "7", *small, "--json",
                       "--out", self.folder / out, *words)

    def picture(self, *words, **more):
        result = self.draw("--overwrite", *words, **more)
        self.assertEqual(result.code, 0, result.err)
        return Png(result.event("image")["file"])

    def separate(self, **other):
        """The options that name each part's file."""
        parts = {"unet": "transformer", "clip-l": "clip-l", "t5": "t5", "vae": "vae"}
        files = {option: model("tiny-flux", part) for option, part in parts.items()} | other
        return [word for option, file in files.items() for word in (f"--{option}", file)]


class Flux(Draws):
    def test_every_variant_has_its_own_defaults(self):
        write_png(self.folder / "edges.png", 64, 64, lambda x, y: (255,) * 3 if x == y else (0,) * 3)
        small = SMALL[:4]
        for kind, steps, guidance, words in (("tiny-flux", 20, 3.5, ()), ("tiny-flux-schnell", 4, None, ()),
                                             ("tiny-flux-fill", 20, 30, ()),
                                             ("tiny-flux-control", 20, 30, ("--control-image", self.folder / "edges.png"))):
            with self.subTest(kind=kind):
                result = self.draw(*words, "--overwrite", kind=kind, small=small)
                self.assertEqual(result.code, 0, result.err)
                plan = result.event("plan")
                self.assertEqual([plan[k] for k in ("steps", "cfg", "sampler", "scheduler")],
                                 [steps, 1, "euler", "simple"])
                self.assertEqual(plan.get("guidance"), guidance)
                self.assertGreater(len(set(b"".join(Png(self.folder / "a.png").rows))), 30, "a flat picture")

    def test_separate_files_are_the_whole_checkpoint(self):
        whole = self.picture()
        self.assertEqual(self.picture(files=self.separate()).rows, whole.rows)
        files = ["-m", model("tiny-flux", "transformer"), "--vae", model("tiny-flux", "vae"), "--text-encoder",
                 model("tiny-flux", "t5"), model("tiny-flux", "clip-l")]
        self.assertEqual(self.picture(files=files).rows, whole.rows)

    def test_codes_and_what_they_stand_for_draw_the_same(self):
        """A transformer without convolutions: matrices decoded once and for all, vectors as precise as they were."""
        for kind, file in (("Q8_0", "u.gguf"), ("Q4_K_M", "u.gguf"), ("fp8", "u.safetensors")):
            for plain, dtype in (("BF16", "bf16"), ("F16", "fp16")):
                coded, decoded = self.folder / file, self.folder / "d.safetensors"
                for source, to, name in ((model("tiny-flux", "transformer"), coded, kind), (coded, decoded, plain)):
                    result = atelier("quantize", source, to, "--type", name, "--overwrite")
                    self.assertEqual(result.code, 0, result.err)
                with self.subTest(kind=kind, dtype=dtype):
                    pictures = [self.picture("--dtype", dtype, files=self.separate(unet=file)) for file in (coded, decoded)]
                    self.assertEqual(pictures[0].rows, pictures[1].rows)

    def test_options_change_the_picture_and_are_told(self):
        base = self.picture()
        for words, key, value in ((("--guidance", "1"), "guidance", 1), (("--shift", "3"), "shift", 3),
                                  (("--max-shift", "4", "--base-shift", "2"), "max_shift", 4)):
            result = self.draw("--overwrite", *words)
            self.assertEqual(result.code, 0, result.err)
            changed = Png(result.event("image")["file"])
            self.assertGreater(changed.difference(base), 0.05, words)
            self.assertEqual(json.loads(changed.text["atelier"])[key], value)
        self.assertAlmostEqual(json.loads(changed.text["atelier"])["shift"], 2 + 2 / 3840 * (16 - 256))
        self.assertEqual(result.event("plan")["shift"], json.loads(changed.text["atelier"])["shift"])
        self.assertGreater(self.picture(prompt="(a red:1.5) circle").difference(base), 0.01)
        self.assertIn("Distilled CFG Scale: 3.5", base.text["parameters"])

    def test_a_fixed_shift_is_that_of_its_size(self):
        told = self.draw("--overwrite", "--max-shift", "1.15").event("plan")["shift"]
        by_size = Png(self.folder / "a.png")
        self.assertEqual(self.picture("--shift", f"{told:.17g}").rows, by_size.rows)
        self.assert_fails(self.draw("--max-shift", "-5", "--base-shift", "-5"), 2, "--max-shift", "64x64")

    def test_the_negative_prompt_counts_above_cfg_1(self):
        result = self.draw("-n", "blue")
        self.assertIn("negative", result.event("warning")["message"])
        plain = self.picture("--cfg", "3")
        self.assertGreater(self.picture("--cfg", "3", "-n", "blue").difference(plain), 0.01)
        words = " ".join(f"word{i}" for i in range(200))  # more tokens than the other prompt
        self.assertGreater(self.picture("--cfg", "3", "-n", words).difference(plain), 0.01)

    def test_guidance_for_a_model_that_is_told_none_is_a_warning(self):
        result = self.draw("--guidance", "2", kind="tiny-flux-schnell")
        self.assertIn("--guidance", result.event("warning")["message"])

    def test_a_batch_is_what_is_drawn_alone(self):
        for dtype in ("auto", "fp32"):
            alone = self.picture("--dtype", dtype)
            result = self.draw("--overwrite", "--dtype", dtype, "--batch", "2", out="b{index}.png")
            self.assertEqual(result.code, 0, result.err)
            self.assertLess(Png(self.folder / "b0001.png").difference(alone), 0.5)
            self.assertGreater(Png(self.folder / "b0002.png").difference(alone), 1)

    def test_sizes_that_16_does_not_divide(self):
        for width, height in ((72, 104), (16, 200)):
            picture = self.picture(small=("--width", str(width), "--height", str(height), "--steps", "2"))
            self.assertEqual((picture.width, picture.height), (width, height))

    def test_previews_follow_the_steps(self):
        self.assertEqual(self.draw("--preview", self.folder / "linear.png").code, 0)
        # A tiny autoencoder of 16 channels: that of 4 with more inputs.
        header, tensors = read_safetensors(ROOT / "tests/golden/models/taesd/taesd_decoder.safetensors")
        decoder = {}
        for name, row in header.items():
            if name == "__metadata__":
                continue
            count = len(tensors[name]) // {"F16": 2, "F32": 4}[row["dtype"]]
            numbers = struct.unpack(f"<{count}{'e' if row['dtype'] == 'F16' else 'f'}", tensors[name])
            shape = row["shape"]
            if shape[1:] == [4, 3, 3]:
                numbers = [v for at in range(0, count, 36) for v in 4 * numbers[at:at + 36]]
                shape = [shape[0], 16, 3, 3]
            decoder[name] = (shape, numbers)
        write_safetensors(self.folder / "taef1.safetensors", decoder)
        result = self.draw("--preview", self.folder / "tiny.png", "--preview-decoder",
                           self.folder / "taef1.safetensors", out="b.png")
        self.assertEqual(result.code, 0, result.err)
        linear, tiny = Png(self.folder / "linear.png"), Png(self.folder / "tiny.png")
        self.assertEqual((linear.width, linear.height, tiny.width, tiny.height), (64,) * 4)
        self.assertGreater(linear.difference(tiny), 1)
        four = ROOT / "tests/golden/models/taesd/taesd_decoder.safetensors"
        self.assert_fails(self.draw("--preview", self.folder / "c.png", "--preview-decoder", four), 1, "taesd_decoder",
                          "16")


class FluxEditing(Draws):
    def setUp(self):
        super().setUp()
        self.init, self.mask = self.folder / "init.png", self.folder / "mask.png"
        write_png(self.init, 64, 64, lambda x, y: (4 * x, 4 * y, 128))
        write_png(self.mask, 64, 64, lambda x, y: (255,) * 3 if x >= 32 else (0,) * 3)

    def test_a_picture_to_start_from(self):
        base = self.picture("--init-image", self.init, "--strength", "0")
        little = self.picture("--init-image", self.init, "--strength", "0.3", "--steps", "6", small=SMALL[:4])
        self.assertLess(little.difference(base), self.picture().difference(base))

    def test_a_mask_keeps_what_is_black(self):
        for kind in ("tiny-flux", "tiny-flux-fill"):
            picture = self.picture("--init-image", self.init, "--mask", self.mask, kind=kind)
            places = [(x, y) for x in range(0, 24, 4) for y in range(0, 64, 4)]
            self.assertEqual([picture.pixel(*p) for p in places], [(4 * x, 4 * y, 128) for x, y in places])
            self.assertNotEqual(picture.pixel(48, 32), (192, 128, 128))

    def test_fill_sees_what_the_mask_leaves(self):
        other = self.folder / "other.png"
        write_png(other, 64, 64, lambda x, y: (255 - 4 * x, 128, 4 * y))
        a, b = (self.picture("--init-image", init, "--mask", self.mask, "--strength", "1", kind="tiny-flux-fill")
                for init in (self.init, other))
        self.assertNotEqual([a.pixel(60, y) for y in range(64)], [b.pixel(60, y) for y in range(64)])

    def test_a_control_picture_is_needed_where_one_is_taken(self):
        a = self.picture("--control-image", self.init, kind="tiny-flux-control")
        b = self.picture("--control-image", self.mask, kind="tiny-flux-control")
        self.assertGreater(a.difference(b), 0.05)
        self.assertEqual(json.loads(b.text["atelier"])["control_image"], "mask.png")
        self.assert_fails(self.draw(kind="tiny-flux-control"), 1, "--control-image", "edges or depths")
        self.assert_fails(self.draw("--control-image", self.init), 1, "--control-image", "takes none")

    def test_references_are_looked_at(self):
        base = self.picture("--guidance", "2.5")
        one = self.picture("--reference", self.init)
        two = self.picture("--reference", self.init, "--reference", self.mask)
        self.assertGreater(one.difference(base), 0.02)
        self.assertGreater(two.difference(one), 0.02)
        facts = json.loads(two.text["atelier"])
        self.assertEqual((facts["references"], facts["guidance"]), (["init.png", "mask.png"], 2.5))
        self.assert_fails(self.draw("--reference", self.init, kind="tiny-flux-fill"), 1, "--reference", "takes none")

    def test_a_reference_gives_the_proportions(self):
        wide = self.folder / "wide.png"
        write_png(wide, 64, 16, lambda x, y: (4 * x, 16 * y, 0))
        plan = self.draw("--reference", wide, "--steps", "1", "--dtype", "bf16", small=("--batch", "4096")).event("plan")
        self.assertEqual((plan["width"], plan["height"]), (2048, 512))

    def test_broken_pictures_are_one_line(self):
        broken = self.folder / "broken.png"
        broken.write_bytes(self.init.read_bytes()[:60])
        self.assert_fails(self.draw("--reference", broken), 1, "broken.png")
        self.assert_fails(self.draw("--control-image", broken, kind="tiny-flux-control"), 1, "broken.png")


class FluxFiles(Draws):
    def test_mixed_up_files_are_one_line(self):
        part = {name: model("tiny-flux", name) for name in ("transformer", "clip-l", "t5", "vae")}
        for option, wrong, words in (("clip-l", part["t5"], ("t5xxl", "--t5")),
                                     ("t5", part["clip-l"], ("clip_l", "--clip-l")),
                                     ("t5", part["vae"], ("autoencoder", "--vae")),
                                     ("vae", part["t5"], ("t5xxl", "--t5")),
                                     ("vae", part["transformer"], ("FLUX.1 dev", "--unet")),
                                     ("unet", part["vae"], ("autoencoder", "--vae")),
                                     ("unet", part["clip-l"], ("clip_l", "--clip-l")),
                                     ("unet", part["t5"], ("t5xxl", "--t5")),
                                     ("vae", model("tiny"), ("16 latent channels", "found 4"))):
            with self.subTest(option=option, wrong=wrong.name):
                self.assert_fails(self.draw(files=self.separate(**{option: wrong})), 1, wrong.name, *words)
        self.assertEqual([f for f in self.files() if f.endswith("png")], [])

    def test_missing_parts_are_all_named(self):
        result = self.draw(files=("--unet", model("tiny-flux", "transformer")))
        self.assert_fails(result, 1, "no VAE", "clip_l", "t5xxl", "--vae, --clip-l, --t5")

    def test_an_encoder_the_model_does_not_take(self):
        self.assert_fails(self.draw("--clip-g", model("tiny-flux", "clip-l")), 1, "--clip-g", "FLUX.1 dev")
        result = atelier("generate", "-m", model("tiny"), "--t5", model("tiny-flux", "t5"), "-p", "x")
        self.assert_fails(result, 1, "--t5", "Stable Diffusion 1.x")

    def test_the_tokenizer_lies_beside_the_model_or_t5(self):
        shutil.copy(model("tiny-flux"), self.folder / "flux.safetensors")
        words = ("generate", "-m", self.folder / "flux.safetensors", "-p", "a red circle", "--seed", "7", *SMALL, "--out",
                 self.folder / "b.png")
        self.assert_fails(atelier(*words), 1, "flux.safetensors", "spiece.model", "--t5-tokenizer")
        shutil.copy(TOKENIZER.with_name("tokenizer.json"), self.folder)
        self.assertEqual(atelier(*words).code, 0)
        self.assertEqual(Png(self.folder / "b.png").rows, self.picture().rows)

    def test_a_quantised_transformer_draws(self):
        exact = self.picture(files=self.separate())
        for name, kind in (("t.gguf", "Q8_0"), ("t.safetensors", "fp8")):
            result = atelier("quantize", model("tiny-flux", "transformer"), self.folder / name, "--type", kind)
            self.assertEqual(result.code, 0, result.err)
            rounded = self.picture(files=self.separate(unet=self.folder / name))
            self.assertGreater(exact.difference(rounded), 0)
            self.assertLess(exact.difference(rounded), 25)

    def test_inspect_knows_the_parts(self):
        text = atelier("inspect", model("tiny-flux")).out
        for word in ("FLUX.1 dev", "transformer", "predicts flow", "text clip_l", "text t5xxl", "vae"):
            self.assertIn(word, text)
        for part, said in (("t5", "text encoder t5xxl"), ("vae", "autoencoder (VAE)"), ("clip-l", "text encoder clip_l"),
                           ("transformer", "FLUX.1 dev")):
            self.assertIn(said, atelier("inspect", model("tiny-flux", part)).out)


if __name__ == "__main__":
    unittest.main()
