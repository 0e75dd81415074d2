#!/usr/bin/env python3
"""Wrong use of the command: each case is one line, a suggestion, and the right exit code."""
import os
import subprocess
import time
import unittest

from harness import BIN, ROOT, Case, atelier, model


class Help(Case):
    def test_is_quick(self):
        for words in (("--help",), ("generate", "--help")):
            times = (self.timed(*words) for _ in range(20))  # other tests may hold the processor meanwhile
            self.assertTrue(any(seconds < 0.3 for seconds in times), words)

    def timed(self, *words):
        start = time.monotonic()
        self.assertEqual(atelier(*words).code, 0)
        return time.monotonic() - start

    def test_does_not_load_libtorch(self):
        needed = subprocess.run(["ldd", BIN], capture_output=True, text=True).stdout
        self.assertIn("libc.so", needed)
        self.assertNotIn("torch", needed)
        self.assertNotIn("c10", needed)

    def test_names_every_option(self):
        text = atelier("generate", "--help").out
        for option in ("--model --prompt --negative --width --height --steps --cfg --sampler --scheduler --seed "
                       "--batch --clip-skip --init-image --strength --mask --vae --text-encoder --dtype "
                       "--unet-dtype --text-dtype --vae-dtype --threads --tiled-vae --embeddings --preview "
                       "--init-latent --start-step --end-step --no-noise --keep-noise --preview-decoder "
                       "--unet --clip-l --clip-g --t5 --t5-tokenizer --guidance --shift --base-shift --max-shift "
                       "--control-image --reference "
                       "--save-latent --out --json --verbose --sheet --overwrite").split():
            self.assertRegex(text, rf"{option}\b")
        for name in ("dpmpp_2m", "uni_pc_bh2", "karras", "kl_optimal", "{seed}"):
            self.assertIn(name, text)

    def test_of_every_command(self):
        text = atelier("help").out
        for command in ("generate", "inspect", "quantize", "doctor"):
            self.assertIn(command, text)
            self.assertEqual(atelier("help", command).out, atelier(command, "--help").out)
            self.assertIn("Usage: atelier " + command, atelier(command, "--help").out)

    def test_version(self):
        self.assertRegex(atelier("--version").out, r"^atelier \d+\.\d+\.\d+\n$")
        self.assertEqual(atelier("version").out, atelier("--version").out)


class WrongUse(Case):
    def generate(self, *words):
        return atelier("generate", "-m", model("tiny"), "-p", "x", "--out", self.folder / "a.png", *words)

    def test_no_command(self):
        self.assertEqual(atelier().code, 2)

    def test_unknown_command(self):
        self.assert_fails(atelier("genrate"), 2, "genrate", "Did you mean 'generate'?")
        self.assert_fails(atelier("--versio"), 2, "--versio", "Did you mean 'version'?")

    def test_unknown_option(self):
        self.assert_fails(self.generate("--smapler", "euler"), 2, "--smapler", "Did you mean '--sampler'?")
        self.assert_fails(self.generate("--smapler=euler"), 2, "Did you mean '--sampler'?")
        self.assert_fails(self.generate("word"), 2, "unexpected argument 'word'")

    def test_unknown_sampler(self):
        self.assert_fails(self.generate("--sampler", "dpm2_2m"), 2, "--sampler", "dpm2_2m", "Did you mean 'dpm")
        self.assert_fails(self.generate("--sampler", "qqqqqqqqqqqqqqqq"), 2, "Known are euler, ")

    def test_names_of_other_programs_are_understood_enough_to_help(self):
        for word, meant in (("DPM++ 2M Karras", "dpmpp_2m"), ("dpm++_2m", "dpmpp_2m"), ("Euler a", "euler_ancestral"),
                            ("k_euler_a", "euler_ancestral"), ("UniPC", "uni_pc"), ("DPM++ SDE Karras", "dpmpp_sde"),
                            ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde"), ("DPM2 a", "dpm_2_ancestral"),
                            ("Heun", "heun"), ("ddim_uniform", "ddim")):
            with self.subTest(word=word):
                self.assert_fails(self.generate("--sampler", word), 2, f"Did you mean '{meant}'?")

    def test_unknown_scheduler(self):
        self.assert_fails(self.generate("--scheduler", "karas"), 2, "--scheduler", "Did you mean 'karras'?")

    def test_unknown_dtype(self):
        for option in ("--dtype", "--unet-dtype", "--text-dtype", "--vae-dtype"):
            self.assert_fails(self.generate(option, "float32"), 2, option, "float32")

    def test_numbers(self):
        for option, value in (("--steps", "0"), ("--steps", "abc"), ("--steps", "1.5"), ("--steps", "99999"),
                              ("--steps", "999999999999999999999"), ("--cfg", "nan"), ("--cfg", "-1"),
                              ("--cfg", "1e9"), ("--batch", "0"), ("--clip-skip", "0"), ("--clip-skip", "25"),
                              ("--threads", "0"), ("--threads", "-2"), ("--strength", "1.1"), ("--seed", "-5"),
                              ("--seed", "18446744073709551616"), ("--seed", "1.0"), ("--width", "0"),
                              ("--height", "99999"), ("--width", "")):
            with self.subTest(option=option, value=value):
                self.assert_fails(self.generate(option, value), 2, option, f"'{value}'")

    def test_missing_value(self):
        self.assert_fails(self.generate("--steps"), 2, "--steps", "a value is needed")

    def test_repeated_option(self):
        self.assert_fails(self.generate("--steps", "3", "--steps", "4"), 2, "--steps", "only once")

    def test_size_not_a_multiple_of_8(self):
        self.assert_fails(self.generate("--width", "500"), 2, "--width", "multiple of 8", "496 and 504")
        self.assert_fails(self.generate("--height", "17"), 2, "--height", "16 and 24")

    def test_missing_model_and_prompt(self):
        self.assert_fails(atelier("generate", "-p", "x"), 2, "--model", "needed")
        self.assert_fails(atelier("generate", "-m", model("tiny")), 2, "--prompt", "needed")

    def test_options_that_need_another(self):
        self.assert_fails(self.generate("--strength", "0.5"), 2, "--strength", "--init-image")
        self.assert_fails(self.generate("--mask", model("tiny")), 2, "--mask", "--init-image")

    def test_options_that_exclude_each_other(self):
        self.assert_fails(self.generate("--unet", model("tiny")), 2, "--unet", "cannot be used with --model")
        self.assert_fails(self.generate("--shift", "2", "--max-shift", "2"), 2, "--shift", "--base-shift")

    def test_options_that_the_model_does_not_take(self):
        self.assert_fails(self.generate("--shift", "2"), 2, "--shift", "Stable Diffusion 1.x")
        for option in ("--control-image", "--reference"):
            picture = ROOT / "tests/golden/media/rgb.png"
            self.assert_fails(self.generate(option, picture), 1, option, "Stable Diffusion 1.x")

    def test_output_names(self):
        self.assert_fails(self.generate("--sheet", "sheet.gif"), 2, "--sheet", ".gif")
        for name, word in (("a.pgn", "Did you mean '.png'?"), ("{sed}.png", "Did you mean '{seed}'?"),
                           ("{seed.png", "'}'"), ("folder/", "folder"), ("name", "no ending")):
            result = atelier("generate", "-m", model("tiny"), "-p", "x", "--out", name)
            self.assert_fails(result, 2, "--out", word)
        self.assert_fails(self.generate("--save-latent", "a.png"), 2, "--save-latent", ".safetensors")

    def test_json_readers_get_the_error_as_an_event(self):
        result = self.generate("--json", "--sampler", "eulr")
        self.assertEqual(result.code, 2)
        event = result.event("error")
        self.assertEqual(event["code"], "invalid_argument")
        self.assertEqual(event["exit_code"], 2)
        self.assertEqual("error: " + event["message"], result.error_line)


class Files(Case):
    def test_missing_files_are_named_with_the_nearest(self):
        near = model("tiny").with_name("tiny.safetensor")
        self.assert_fails(atelier("generate", "-m", near, "-p", "x"), 1, "--model", "does not exist",
                          "Did you mean", "tiny.safetensors")
        for option in ("--vae", "--text-encoder", "--embeddings", "--init-image", "--init-latent", "--clip-l", "--t5",
                       "--t5-tokenizer", "--control-image", "--reference"):
            result = atelier("generate", "-m", model("tiny"), "-p", "x", option, self.folder / "none")
            self.assert_fails(result, 1, option, "does not exist")

    def test_wrong_kind_of_file(self):
        result = atelier("generate", "-m", model("tiny"), "-p", "x", "--init-image", self.folder)
        self.assert_fails(result, 1, "--init-image", "is a folder")
        result = atelier("generate", "-m", model("tiny"), "-p", "x", "--embeddings", model("tiny"))
        self.assert_fails(result, 1, "--embeddings", "not a folder")
        self.assert_fails(atelier("generate", "-m", "/dev/null", "-p", "x"), 1, "not a regular file")

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_unreadable_file(self):
        secret = self.folder / "secret.safetensors"
        secret.write_bytes(b"x")
        secret.chmod(0)
        self.assert_fails(atelier("generate", "-m", secret, "-p", "x"), 1, "may not be read")


class Doctor(Case):
    def test_reports_the_machine(self):
        result = atelier("doctor")
        self.assertEqual(result.code, 0, result.out)
        for word in ("processor", "features", "memory", "libtorch", "Everything needed is here."):
            self.assertIn(word, result.out)


if __name__ == "__main__":
    unittest.main()
