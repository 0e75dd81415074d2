#!/usr/bin/env python3
"""Hostile surroundings: closed and full outputs, files that shrink, names that collide, text that forges lines, mix-ups."""
import json
import os
import pathlib
import resource
import shutil
import subprocess
import unittest

from harness import BIN, ROOT, Case, Result, atelier, model, read_bytes, write_bytes, write_png, write_safetensors

TOKENIZER = ROOT / "tests/golden/t5/spiece.model"
DRAW = ("-p", "a red circle", "--seed", "7", "--width", "64", "--height", "64", "--steps", "1")


def flux(**other):
    parts = {"--unet": model("tiny-flux", "transformer"), "--clip-l": model("tiny-flux", "clip-l"),
             "--t5": model("tiny-flux", "t5"), "--vae": model("tiny-flux", "vae"), "--t5-tokenizer": TOKENIZER}
    parts |= {"--" + name.replace("_", "-"): file for name, file in other.items()}
    return [word for part in parts.items() for word in part]


class Hostile(Case):
    def draw(self, *words, **more):
        return atelier("generate", *words, *DRAW, *(() if "--out" in words else ("--out", self.folder / "a.png")),
                       timeout=60, **more)

    def tiny(self, name="m.safetensors"):
        shutil.copy(model("tiny"), self.folder / name)
        return self.folder / name

    def write(self, name, tensors):
        write_bytes(self.folder / name, tensors)
        return self.folder / name


@unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
class Surroundings(Hostile):
    def shell(self, words, redirection, stdout=subprocess.DEVNULL):
        return subprocess.run(["bash", "-c", f'"$@" {redirection}', "-", BIN, *map(str, words)], stdout=stdout,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=120)

    def test_errors_need_no_standard_error(self):
        for words in (("inspect", "nope"), ("generate", "-m", "nope", "-p", "x"), ("quantize", "a", "b"), ("nope",)):
            for redirection in ("2>/dev/full", "2>&-", "2>&- >&-", "<&- >&- 2>&-"):
                with self.subTest(words=words, redirection=redirection):
                    self.assertIn(self.shell(words, redirection).returncode, (1, 2))

    def test_work_needs_no_standard_error(self):
        for i, redirection in enumerate(("2>/dev/full", "2>&-", "<&- 2>&-")):
            picture, file = self.folder / f"{i}.png", self.folder / f"{i}.gguf"
            draw = ("generate", "-m", model("tiny"), *DRAW, "--out", picture, "--verbose")
            self.assertEqual(self.shell(draw, redirection).returncode, 0)
            self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
            quantize = ("quantize", model("tiny"), file, "--type", "Q8_0")
            self.assertEqual(self.shell(quantize, redirection).returncode, 0)
            self.assertTrue(file.read_bytes().startswith(b"GGUF"))

    def test_a_full_standard_output_is_told_after_the_work(self):
        for more in ((), ("--json",)):
            words = ("generate", "-m", model("tiny"), *DRAW, "--overwrite", "--out",
                     self.folder / "a.png", *more)
            done = self.shell(words, ">/dev/full", stdout=None)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("error: standard output: cannot be written\n", done.stderr)
            self.assertTrue((self.folder / "a.png").exists())
        done = self.shell(("inspect", "--tensors", model("tiny")), ">/dev/full", stdout=None)
        self.assertEqual((done.returncode, done.stderr), (1, "error: standard output: cannot be written\n"))

    def mapped_by(self, process):
        try:
            return pathlib.Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            return ""

    def test_a_model_that_is_shortened_ends_in_a_line(self):
        for json_lines in (False, True):
            file = self.tiny()
            words = ("generate", "-m", file, *DRAW, "--out", self.folder / "a.png", *(["--json"] if json_lines else []))
            process = subprocess.Popen([BIN, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and file.name not in self.mapped_by(process):
                pass
            os.truncate(file, 4096)
            out, err = process.communicate(timeout=120)
            self.assertEqual(process.returncode, 1, err)
            result = Result(process.returncode, out, err)
            self.assertNotIn("terminate", err)
            if "shortened" in result.error_line and json_lines:
                self.assertEqual(result.event("error")["exit_code"], 1)

    def test_a_limit_on_the_size_of_files_is_an_error_in_a_line(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        for words in (("generate", "-m", model("tiny"), *DRAW, "--out", self.folder / "a.png"),
                      ("quantize", model("tiny"), self.folder / "a.gguf", "--type", "Q8_0")):
            done = subprocess.run([BIN, *map(str, words)], capture_output=True, text=True, preexec_fn=limit)
            self.assert_fails(Result(done.returncode, done.stdout, done.stderr), 1, "cannot be written", "too large")
        self.assertEqual(self.files(), [])

    def test_many_threads_are_as_many_as_make_sense(self):
        result = self.draw("-m", model("tiny"), "--threads", "1024", "--json")
        self.assertEqual(result.code, 0, result.err)
        self.assertLessEqual(result.event("plan")["threads"], 4 * os.cpu_count())


class Outputs(Hostile):
    def refused(self, *words, option, other):
        result = self.draw(*words)
        self.assert_fails(result, 2, option, other)
        self.assertNotIn("threads", result.err)  # before the headline

    def test_nothing_that_is_read_is_replaced(self):
        source = self.tiny()
        os.link(source, self.folder / "link.safetensors")
        before = source.read_bytes()
        for words in (("--save-latent", source), ("--save-latent", self.folder / "link.safetensors"),
                      ("--collect-imatrix", source)):
            self.refused("-m", source, *words, "--overwrite", option=words[0], other="--model")
        for option in ("--vae", "--clip-l"):
            self.refused("-m", model("tiny"), option, source, "--save-latent", source, "--overwrite",
                         option="--save-latent", other=option)
        for option in ("--lora", "--text-encoder", "--init-latent"):
            self.refused("-m", model("tiny"), option, source, "--save-latent", source, "--overwrite",
                         option="--save-latent", other=option)
        embedding = self.folder / "words/word.safetensors"
        embedding.parent.mkdir()
        write_safetensors(embedding, {"emb_params": ((1, 64), [0.5] * 64)})
        self.refused("-m", source, "--embeddings", embedding.parent, "--save-latent", embedding, "--overwrite",
                     option="--save-latent", other="--embeddings")
        self.assertEqual(source.read_bytes(), before)

    def test_no_picture_that_is_read_is_replaced(self):
        picture = self.folder / "init.png"
        write_png(picture, 64, 64, lambda x, y: (x, y, 0))
        before = picture.read_bytes()
        for words in (("--out", picture), ("--sheet", picture), ("--out", self.folder / "ini{model}.png")):
            self.refused("-m", self.tiny("t.safetensors"), "--init-image", picture, *words, "--overwrite", option=words[0],
                         other="--init-image")
        self.refused("-m", model("tiny"), "--init-image", picture, "--mask", picture, "--preview", picture,
                     option="--preview", other="--init-image")
        self.assertEqual(picture.read_bytes(), before)
        result = self.draw("-m", model("tiny"), "--init-image", picture, "--out", picture)
        self.assertEqual(result.code, 0, result.err)  # takes another name
        self.assertIn("init_2.png", self.files())

    def test_no_shard_and_no_file_of_a_folder_is_replaced(self):
        tensors = sorted(read_bytes(model("tiny")).items())
        names = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
        for name, part in zip(names, (tensors[:400], tensors[400:])):
            self.write(name, dict(part))
        index = self.folder / "m.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {key: names[i >= 400] for i, (key, _) in enumerate(tensors)}}))
        for source in (index, self.folder):
            self.refused("-m", source, "--save-latent", self.folder / names[1], "--overwrite", option="--save-latent",
                         other="--model")

    def test_no_two_outputs_have_one_name(self):
        a, latent = self.folder / "a.png", self.folder / "x.safetensors"
        for words, option, other in ((("--sheet", a), "--out", "--sheet"), (("--preview", a), "--out", "--preview"),
                                     (("--sheet", a, "--preview", self.folder / "./a.png", "--out", "b.png"), "--preview",
                                      "--sheet"),
                                     (("--save-latent", latent, "--collect-imatrix", latent), "--collect-imatrix",
                                      "--save-latent")):
            self.refused("-m", model("tiny"), *words, option=option, other=other)
        self.refused("-m", model("tiny"), "--sheet", self.folder / "tiny.png", "--out", str(self.folder / "{model}.png"),
                     option="--out", other="--sheet")
        self.assertEqual(self.files(), [])

    def test_names_that_cannot_be_are_told_before_the_headline(self):
        long = "n" * 300
        loop = self.folder / "loop"
        loop.symlink_to("loop")
        for option, end in (("--out", ".png"), ("--sheet", ".png"), ("--preview", ".png"),
                            ("--save-latent", ".safetensors"), ("--collect-imatrix", ".gguf")):
            for name in (long + end, f"{long}/a{end}", f"loop/a{end}", f"/proc/a{end}"):
                with self.subTest(option=option, name=name):
                    result = self.draw("-m", model("tiny"), option, self.folder / name)
                    self.assert_fails(result, 1, option)
                    self.assertNotIn("threads", result.err)
        result = self.draw("-m", model("tiny"), "--out", self.folder / ("{seed}" + "n" * 260 + ".png"))
        self.assert_fails(result, 1, "--out", "bytes")
        self.assertNotIn("threads", result.err)
        self.assertEqual(self.files(), ["loop"])

    def test_long_names_that_can_be_are_written(self):
        for length in (244, 250, 255):
            name = "n" * (length - 4) + ".png"
            for more in ((), ("--overwrite",)):
                (self.folder / name).unlink(missing_ok=True)
                self.assertEqual(self.draw("-m", model("tiny"), "--out", self.folder / name, *more).code, 0)
                self.assertEqual(self.files(), [name])
            (self.folder / name).unlink()

    def test_what_is_wrong_is_told_before_the_headline(self):
        for words in (("--collect-imatrix", self.tiny()),
                      ("--preview", self.folder / "p.png", "--preview-decoder", model("tiny-flux", "vae"))):
            result = self.draw("-m", model("tiny"), *words)
            self.assert_fails(result, 1, words[-1].name)
            self.assertNotIn("threads", result.err)


class Messages(Hostile):
    def test_are_one_line_whatever_they_quote(self):
        file = self.write("a.safetensors", {"a\nerror: b\x7f\u0085\u009b2J\u2028": ("F32", [1], bytes(4))})
        for result in (self.draw("-m", file), self.draw("-m", model("tiny"), "--lora", file)):
            self.assertEqual(result.code, 1)
            self.assertEqual(len(result.err.splitlines()), 1, result.err)
            self.assertIn("a\\nerror: b\\x7f\\xc2\\x85\\xc2\\x9b2J\\xe2\\x80\\xa8", result.err)
        text = atelier("inspect", "--tensors", file).out
        self.assertIn("a\\nerror: b\\x7f\\xc2\\x85\\xc2\\x9b2J", text)
        done = subprocess.run([BIN.encode(), b"inspect", b"no\xff\x9b\nerror: x"], capture_output=True)
        self.assertEqual(done.stderr.count(b"\n"), 1)
        self.assertIn(b"'no\\xff\\x9b\\nerror: x'", done.stderr)

    def test_warnings_and_the_log_are_lines_too(self):
        key = "lora_unet_no\nerror: x\u009b"
        lora = self.write("a.safetensors", {
            key + ".lora_down.weight": ("F32", [2, 32], bytes(256)), key + ".lora_up.weight": ("F32", [32, 2], bytes(256)),
            "lora_unet_middle_block_1_proj_in.lora_down.weight": ("F32", [2, 64], bytes(512)),
            "lora_unet_middle_block_1_proj_in.lora_up.weight": ("F32", [64, 2], bytes(512))})
        embeddings = self.folder / "e"
        embeddings.mkdir()
        result = self.draw("-m", model("tiny"), "--lora", lora, "--verbose", "--embeddings", embeddings, "-p",
                           "embedding:no\x1b\u009b2J")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("no\\nerror: x\\xc2\\x9b", result.err)
        self.assertNotRegex(result.err, "[\x00-\x09\x0b-\x1f\x7f-\x9f]")
        self.assertFalse([line for line in result.err.splitlines() if line.startswith("error")])

    def test_are_not_as_long_as_what_they_quote(self):
        for words in (("--sampler", "q" * 100_000), ("--cfg", "9" * 100_000), ("--" + "x" * 100_000,),
                      ("--lora", "f" * 100_000), ("--out", "{" + "x" * 100_000 + "}.png")):
            result = self.draw("-m", model("tiny"), *words)
            self.assertIn(result.code, (1, 2))
            self.assertLess(len(result.err), 3000)
            self.assertIn("...", result.error_line)

    def test_say_nothing_of_the_libraries_within(self):
        file = self.folder / "a.safetensors"
        file.write_text('{"weight_map": {"a": 1e999}}')
        result = atelier("inspect", file)
        self.assert_fails(result, 1, "a number that is too large")
        self.assertNotIn("json.exception", result.err)

    def test_of_empty_and_odd_words(self):
        self.assert_fails(self.draw("-m", model("tiny"), "--ram", ""), 2, "--ram", "nothing between the quotes")
        result = self.draw("-m", model("tiny"), "--ram", "1")
        self.assert_fails(result, 1, "Raise --ram")
        result = self.draw("-m", model("tiny"), "--", "word")
        self.assertNotIn("--t5", result.err)

    def test_of_links_and_strengths(self):
        link = self.folder / "m.safetensors"
        link.symlink_to("gone.safetensors")
        result = self.draw("-m", link)
        self.assert_fails(result, 1, "a link to 'gone.safetensors', which does not exist")
        self.assertNotIn("Did you mean", result.err)
        lora = self.tiny("l.safetensors")
        for word in (":abc", ":1:2:3", ":0,5"):
            self.assert_fails(self.draw("-m", model("tiny"), "--lora", f"{lora}{word}"), 2, "--lora", "l.safetensors",
                              f"found '{word}'")


class MixedUp(Hostile):
    def test_a_model_of_another_family(self):
        result = self.draw(*flux(unet=model("tiny")))
        self.assert_fails(result, 1, "tiny.safetensors is Stable Diffusion 1.x", "no text encoder t5xxl", "Leave --t5 out",
                          "--unet")
        for file in (TOKENIZER, model("tiny")):
            self.assert_fails(self.draw("-m", model("tiny"), "--t5-tokenizer", file), 1, "--t5-tokenizer",
                              "no text encoder t5xxl")

    def test_a_tokenizer_in_the_place_of_a_model_and_the_other_way(self):
        for option in ("--vae", "--lora", "--clip-l"):
            self.assert_fails(self.draw("-m", model("tiny"), option, TOKENIZER), 1, "a SentencePiece tokenizer",
                              "--t5-tokenizer")
        for file, kind in ((TOKENIZER, "a SentencePiece tokenizer"),
                           (TOKENIZER.with_name("tokenizer.json"), "a tokenizer.json")):
            self.assert_fails(self.draw("-m", file), 1, kind, "--t5-tokenizer")
        key = "lora_unet_middle_block_1_proj_in"
        lora = self.write("l.safetensors", {key + ".lora_down.weight": ("F32", [2, 32], bytes(256)),
                                            key + ".lora_up.weight": ("F32", [32, 2], bytes(256))})
        picture = self.folder / "p.png"
        write_png(picture, 8, 8, lambda x, y: (0, 0, 0))
        for file, kind, option in ((model("tiny"), "a diffusion model, Stable Diffusion 1.x", "--model"),
                                   (lora, "a LoRA", "--lora"), (picture, "a PNG picture", ""),
                                   (model("tiny-flux", "t5"), "the text encoder t5xxl", "--t5")):
            self.assert_fails(self.draw(*flux(t5_tokenizer=file)), 1, file.name, "found " + kind, option)

    def test_a_tokenizer_that_contradicts_itself_is_named(self):
        tokenizer = json.loads(TOKENIZER.with_name("tokenizer.json").read_text())
        tokenizer["model"]["vocab"][5][0] = tokenizer["model"]["vocab"][6][0]
        file = self.folder / "tokenizer.json"
        file.write_text(json.dumps(tokenizer))
        self.assert_fails(self.draw(*flux(t5_tokenizer=file)), 1, str(file))

    def test_a_latent_says_where_it_belongs(self):
        latent = self.folder / "l.safetensors"
        self.assertEqual(self.draw("-m", model("tiny"), "--save-latent", latent).code, 0)
        self.assert_fails(self.draw("-m", latent), 1, "a latent", "--init-latent")
        for option in ("--vae", "--clip-l", "--lora"):
            self.assert_fails(self.draw("-m", model("tiny"), option, latent), 1, "a latent", "--init-latent")
        self.assert_fails(atelier("quantize", latent, self.folder / "l.gguf", "--type", "Q8_0"), 1,
                          "expected a model, found a latent")

    def test_what_is_no_textual_inversion(self):
        folder = self.folder / "e"
        folder.mkdir()
        key = "lora_unet_middle_block_1_proj_in"
        self.write("e/l.safetensors", {key + ".lora_down.weight": ("F32", [2, 32], bytes(256)),
                                       key + ".lora_up.weight": ("F32", [32, 2], bytes(256))})
        width = read_bytes(model("tiny"))[
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"][1][1]
        self.write("e/i.safetensors", {"emb_params": ("I8", [1, width], bytes(width))})
        for name, words in (("l", ("a LoRA", "--lora")), ("i", ("I8 without scales",))):
            result = self.draw("-m", model("tiny"), "--embeddings", folder, "-p", "embedding:" + name)
            for word in words:
                self.assertIn(word, result.err)

    def test_a_vocabulary_that_is_cut(self):
        name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
        tensors = read_bytes(model("tiny"))
        dtype, (rows, width), data = tensors[name]
        tensors[name] = (dtype, [100, width], data[:100 * len(data) // rows])
        self.assert_fails(self.draw("-m", self.write("cut.safetensors", tensors)), 1, "cut.safetensors",
                          "token_embedding", "found 100")

    def test_a_weight_beyond_all_bounds_is_named(self):
        result = self.draw("-m", model("tiny"), "-p", "(a:1e30)")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("the weight of a word", result.err)


class Plans(Hostile):
    def plan(self, *words):
        result = self.draw("-m", model("tiny"), "--json", *words)
        self.assertEqual(result.code, 0, result.err)
        return result.event("plan")["memory"]["needed"], result.event("done")["peak_memory"]

    def test_count_a_batch(self):
        needed, peak = self.plan("-b", "256", "--out", self.folder / "{index}.png")
        self.assertGreater(needed, 0.9 * peak)
        self.assertGreater(needed, 1.5 * self.plan()[0])

    def test_count_long_prompts(self):
        needed, peak = self.plan("-p", "1" * 4000)
        self.assertGreater(needed, 0.9 * peak)
        self.assertGreater(needed, self.plan("-p", "1")[0] + (64 << 20))

    def test_prompts_have_an_end(self):
        self.assert_fails(self.draw("-m", model("tiny"), "-p", "1" * 100_000), 2, "prompt", "at most 4928 tokens", "found")


if __name__ == "__main__":
    unittest.main()
