#!/usr/bin/env python3
"""`atelier generate --ram`: any budget draws the same picture, and one too small says so in a line."""
import unittest

from harness import ROOT, Case, Png, atelier, model, write_png
from test_lora import ATTENTION, write_lora

TOKENIZER = ROOT / "tests/golden/t5/spiece.model"


class Memory(Case):
    def draw(self, file, *words, side=64):
        return atelier("generate", "-m", file, "-p", "a red circle", "--width", side, "--height", side, "--steps", "2",
                       "--seed", "7", "--json", "--overwrite", "--out", self.folder / "a.png", *words)

    def picture(self, file, *words):
        result = self.draw(file, *words)
        self.assertEqual(result.code, 0, result.err)
        return result.event("plan")["memory"], Png(result.event("image")["file"]).rows

    def quantised(self, kind, source="tiny"):
        path = self.folder / f"{source}-{kind}.gguf"
        result = atelier("quantize", model(source), path, "--type", kind)
        self.assertEqual(result.code, 0, result.err)
        return path

    def same_with_any_budget(self, file, *words):
        """Draws with budgets from just too small for all weights to the least; returns what stayed prepared."""
        whole, wanted = self.picture(file, *words)
        self.assertEqual(whole["unet_prepared"], whole["unet_weights"])
        least = whole["least"]
        stayed = []
        for share in (0.9, 0.5, 0.0):
            budget = int(least + share * (whole["needed"] - least)) // 1024 + 1
            memory, rows = self.picture(file, "--ram", f"{budget}KiB", *words)
            self.assertEqual(rows, wanted, share)
            self.assertLessEqual(memory["needed"], budget * 1024)
            stayed.append(memory["unet_prepared"])
        self.assertEqual(stayed, sorted(stayed, reverse=True))
        self.assertLess(stayed[0], whole["unet_weights"])
        self.assertLessEqual(stayed[-1], 1024)

    def test_too_little_is_refused_in_a_line(self):
        result = self.draw(model("tiny"), "--ram", "1MiB")
        self.assert_fails(result, 1, "64x64", "memory is needed", "may be used")
        self.assertEqual(result.event("error")["code"], "out_of_memory")
        self.assertEqual(self.files(), [])

    def test_floats(self):
        self.same_with_any_budget(model("tiny"))

    def test_the_peak_is_no_more_than_what_may_be_used(self):
        memory = self.draw(model("tiny"), side=768).event("plan")["memory"]
        for size in (memory["least"], memory["needed"]):
            budget = size // 1024 + 1
            result = self.draw(model("tiny"), "--ram", f"{budget}KiB", side=768)
            self.assertLessEqual(result.event("done")["peak_memory"], budget * 1024)

    def test_parts_that_do_not_fit_beside_each_other_take_turns(self):
        def draw(*words):
            result = self.draw(model("tiny"), "-p", "a blue square", *words)
            self.assertEqual(result.code, 0, result.err)
            memory, phases = result.event("plan")["memory"], [e["name"] for e in result.events if e["event"] == "phase"]
            files = [e["file"] for e in result.events if e["event"] == "image"]
            self.assertEqual(len(files), 2)
            return memory, phases.count("loading UNet"), [Png(file).rows for file in files]

        write_png(self.folder / "start.png", 64, 64, lambda x, y: (x, y, 128))
        for words in ((), ("--init-image", self.folder / "start.png")):
            memory, loaded, pictures = draw(*words)
            self.assertEqual(loaded, 1)
            tight, reloaded, again = draw("--ram", f"{(memory['needed'] - 4096) // 1024}KiB", *words)
            self.assertEqual(tight["unet_prepared"], tight["unet_weights"])
            self.assertEqual(reloaded, 2)
            self.assertEqual(again, pictures)

    def test_a_quantised_file_with_a_lora(self):
        lora = write_lora(self.folder / "a.safetensors", [(ATTENTION.format(x), 32, 32) for x in "qkv"])
        for kind in ("Q8_0", "Q4_0"):
            self.same_with_any_budget(self.quantised(kind), "--lora", lora)

    def test_flux(self):
        self.same_with_any_budget(self.quantised("Q8_0", "tiny-flux"), "--t5-tokenizer", TOKENIZER)

    def test_a_size_must_be_one(self):
        for word in ("much", "-1GiB", "12 parsecs", "1.5.2GiB", "nanGiB"):
            self.assert_fails(self.draw(model("tiny"), f"--ram={word}"), 2, "--ram")


if __name__ == "__main__":
    unittest.main()
