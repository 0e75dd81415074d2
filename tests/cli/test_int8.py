#!/usr/bin/env python3
"""`atelier generate --int8`: Q8_0 matrices as 8-bit integers, where the processor can, and what is said elsewhere."""
import json
import pathlib
import unittest

from harness import Case, Png, atelier, model

DRAW = ("-p", "a red circle", "--width", "64", "--height", "64", "--steps", "3", "--json", "--overwrite")
NEEDED = {"avx_vnni", "avx512_vnni", "amx_int8"}


def flags():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


class Int8(Case):
    def draw(self, path, *words, env=None):
        seed = () if "--seed" in words else ("--seed", "7")
        return atelier("generate", "-m", path, *DRAW, *seed, "--out", self.folder / "a.png", *words, env=env)

    def picture(self, path, *words, env=None):
        result = self.draw(path, *words, env=env)
        self.assertEqual(result.code, 0, result.err)
        return result, Png(result.event("image")["file"])

    def quantised(self, kind):
        path = self.folder / f"{kind}.gguf"
        result = atelier("quantize", model("tiny"), path, "--type", kind)
        self.assertEqual(result.code, 0, result.err)
        return path

    def test_is_refused_where_no_kernel_can(self):
        result = self.draw(model("tiny"), "--int8", env={"ATELIER_CPU_ISA": "portable"})
        self.assert_fails(result, 1, "--int8", "8-bit integers", "portable", "Without --int8")
        self.assertEqual([e["event"] for e in result.events], ["error"])

    @unittest.skipUnless(NEEDED & flags(), "no instructions for products of 8-bit integers")
    def test_draws_nearly_the_same_picture(self):
        path = self.quantised("Q8_0")
        plain, wanted = self.picture(path)
        result, picture = self.picture(path, "--int8")
        self.assertGreater(result.event("plan")["int8_layers"], 20)
        self.assertNotIn("int8_layers", plain.event("plan"))
        self.assertLess(result.event("plan")["memory"]["unet_weights"], plain.event("plan")["memory"]["unet_weights"])
        self.assertFalse([e for e in result.events if e["event"] == "warning"])
        _, other = self.picture(path, "--seed", "8")
        self.assertNotEqual(picture.rows, wanted.rows)
        self.assertLess(picture.difference(wanted), other.difference(wanted) / 4)
        self.assertTrue(json.loads(picture.text["atelier"])["int8"])
        self.assertNotIn("int8", json.loads(wanted.text["atelier"]))

    @unittest.skipUnless(NEEDED & flags(), "no instructions for products of 8-bit integers")
    def test_gives_the_same_bytes_with_any_threads_and_little_memory(self):
        path = self.quantised("Q8_0")
        result, wanted = self.picture(path, "--int8", "--threads", "1")
        for threads in ("2", "3"):
            self.assertEqual(self.picture(path, "--int8", "--threads", threads)[1].rows, wanted.rows)
        memory = result.event("plan")["memory"]
        most = (memory["needed"] - memory["unet_weights"] // 2) // 1024
        small, picture = self.picture(path, "--int8", "--ram", f"{most}KiB")
        memory = small.event("plan")["memory"]
        self.assertLess(memory["unet_prepared"], memory["unet_weights"])
        self.assertEqual(picture.rows, wanted.rows)

    @unittest.skipUnless(NEEDED & flags(), "no instructions for products of 8-bit integers")
    def test_changes_nothing_for_other_files_but_says_so(self):
        for path in (model("tiny"), self.quantised("Q4_0")):
            _, wanted = self.picture(path)
            result, picture = self.picture(path, "--int8")
            self.assertEqual(picture.rows, wanted.rows)
            self.assertIn("--int8 changes nothing", result.event("warning")["message"])


if __name__ == "__main__":
    unittest.main()
