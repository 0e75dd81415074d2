#!/usr/bin/env python3
"""`atelier generate` on tiny checkpoints with random weights: events, files, options, failures."""
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
import unittest

from harness import BIN, ROOT, Case, Png, atelier, model, read_safetensors, write_png

SMALL = ("--width", "64", "--height", "64", "--steps", "3")


class Generate(Case):
    """Cases that draw on the tiny SD 1.x model, 64x64 in 3 steps unless they say otherwise."""

    def draw(self, *words, kind="tiny", prompt="a red circle", seed="7", small=SMALL, out="a.png"):
        return atelier("generate", "-m", model(kind), "-p", prompt, "--seed", seed, *small, "--json", "--out",
                       self.folder / out, *words)

    def picture(self, *words, **more):
        """The drawn picture; overwrites the last one."""
        result = self.draw("--overwrite", *words, **more)
        self.assertEqual(result.code, 0, result.err)
        return Png(result.event("image")["file"])


class Events(Generate):
    def test_come_in_order_with_their_members(self):
        result = self.draw("--batch", "2", "-n", "blue", "--cfg", "5", out="{index}.png")
        self.assertEqual(result.code, 0, result.err)
        kinds = [e["event"] for e in result.events if e["event"] not in ("phase", "slow_step")]
        self.assertEqual(kinds, ["plan", "start", "step", "step", "step", "image", "image", "done"])
        plan = result.event("plan")
        self.assertEqual((plan["width"], plan["height"], plan["steps"], plan["batch"]), (64, 64, 3, 2))
        self.assertEqual((plan["seed"], plan["seed_chosen"], plan["cfg"]), (7, False, 5))
        self.assertEqual(set(plan["dtype"]), {"unet", "text", "vae"})
        self.assertGreater(plan["memory"]["needed"], 0)
        self.assertGreater(plan["seconds_per_call"], 0)
        self.assertGreater(plan["memory"]["available"], plan["memory"]["needed"])
        steps = [e for e in result.events if e["event"] == "step"]
        self.assertEqual([e["step"] for e in steps], [1, 2, 3])
        self.assertTrue(all(e["steps"] == 3 and e["seconds"] > 0 for e in steps))
        sigmas = [e["sigma"] for e in steps]
        self.assertEqual(sigmas, sorted(sigmas, reverse=True))
        images = [e for e in result.events if e["event"] == "image"]
        self.assertEqual([(e["index"], e["batch_index"]) for e in images], [(1, 0), (2, 1)])
        done = result.event("done")
        self.assertEqual(done["images"], [e["file"] for e in images])
        self.assertGreater(done["peak_memory"], 0)

    def test_say_why_a_step_was_slow(self):
        words = ["generate", "-m", model("tiny"), "-p", "x", "--width", "384", "--height", "384", "--steps", "12", "--json",
                 "--out", self.folder / "a.png"]
        process = subprocess.Popen([BIN, *map(str, words)], stdout=subprocess.PIPE, text=True)
        line = ""
        while '"step":3,' not in line:
            line = process.stdout.readline()
        time.sleep(json.loads(line)["seconds"] / 3)  # into the next step
        process.send_signal(signal.SIGSTOP)
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
        time.sleep(1.5)
        for other in others:
            other.kill()
            other.wait()
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0)
        told = [e for e in map(json.loads, out.splitlines()) if e["event"] == "slow_step" and e["seconds"] > 1]
        self.assertTrue(told)
        told.sort(key=lambda e: -e["seconds"])
        self.assertLess(told[0]["usual"], told[0]["seconds"])
        self.assertEqual(told[0]["cause"], "other processes")
        self.assertEqual(told[0]["against"], "median")
        self.assertRegex(told[0]["evidence"], r"^\d+ % of the processors")
        self.assertRegex(told[0]["message"], r"^this step took \d+\.\d s instead of \d+\.\d s: other programs were busy")
        self.assertIn("--threads", told[0]["advice"])

    def test_of_several_prompts(self):
        result = self.draw("-p", "a blue square", out="{index}_{prompt}.png")
        images = [e for e in result.events if e["event"] == "image"]
        self.assertEqual([e["prompt"] for e in images], ["a red circle", "a blue square"])
        self.assertEqual(self.files(), ["0001_a_red_circle.png", "0002_a_blue_square.png"])
        runs = [(e["run"], e["runs"]) for e in result.events if e["event"] == "start"]
        self.assertEqual(runs, [(1, 2), (2, 2)])

    def test_a_random_seed_is_told_and_works(self):
        first = atelier("generate", "-m", model("tiny"), "-p", "x", *SMALL, "--json", "--out", self.folder / "a.png")
        plan = first.event("plan")
        self.assertTrue(plan["seed_chosen"])
        again = self.draw(prompt="x", seed=plan["seed"], out="b.png")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())
        other = atelier("generate", "-m", model("tiny"), "-p", "x", *SMALL, "--json", "--out", self.folder / "c.png")
        self.assertNotEqual(other.event("plan")["seed"], plan["seed"])
        self.assertEqual(again.code, 0)

    def test_without_json_paths_go_to_standard_output(self):
        result = atelier("generate", "-m", model("tiny"), "-p", "x", *SMALL, "--out", self.folder / "a.png")
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.out, f"{self.folder / 'a.png'}\n")
        self.assertRegex(result.err, r"step 3/3, [\d.]+ s/step, ")
        self.assertRegex(result.err, r"seed \d+.*chosen at random")
        self.assertNotIn("\x1b", result.err)

    def test_a_terminal_gets_a_bar(self):
        try:
            master, slave = pty.openpty()
        except OSError as none:
            self.skipTest(none)
        process = subprocess.Popen([BIN, "generate", "-m", model("tiny"), "-p", "x", *SMALL, "--out",
                                    self.folder / "a.png"], stderr=slave, stdout=subprocess.PIPE,
                                   env=dict(os.environ, TERM="xterm"))
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                part = os.read(master, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        self.assertEqual(process.wait(60), 0)
        process.stdout.close()
        os.close(master)
        self.assertIn(b"step 2/3", shown)
        self.assertIn(b"\r", shown)
        self.assertRegex(shown, rb"\[#+-*\]")


class Pictures(Generate):
    def test_are_the_same_for_every_run_and_thread_count(self):
        # Large enough for layers to be cut into several tasks; threads share them out anew in every run.
        size = ("--width", "160", "--height", "96", "--steps", "2")
        for dtype in ("fp32", "bf16"):
            files = []
            for run, threads in enumerate(("2", "2", "1", "3")):
                picture, latent = (self.folder / f"{dtype}{run}.{end}" for end in ("png", "safetensors"))
                result = self.draw("--dtype", dtype, "--threads", threads, "--save-latent", latent, small=size,
                                   out=picture)
                self.assertEqual(result.code, 0, result.err)
                files.append((picture.read_bytes(), latent.read_bytes()))
            self.assertEqual([pair == files[0] for pair in files], [True] * len(files), dtype)

    def test_of_a_batch_are_those_drawn_alone(self):
        for dtype in ("auto", "fp32"):
            self.draw("--overwrite", "--dtype", dtype, out="a.png")
            self.draw("--overwrite", "--dtype", dtype, "--batch", "3", out="b{index}.png")
            alone = Png(self.folder / "a.png")
            batch = [Png(self.folder / f"b000{i}.png") for i in (1, 2, 3)]
            self.assertEqual(alone.rows, batch[0].rows)
            self.assertGreater(batch[0].difference(batch[1]), 1)
            self.assertGreater(batch[1].difference(batch[2]), 1)

    def test_carry_their_parameters(self):
        picture = self.picture("-n", "blue", "--sampler", "dpmpp_2m", "--scheduler", "karras", "--cfg", "6.5",
                               prompt="gr\u00fcn (x:1.2)")
        lines = picture.text["parameters"].split("\n")
        self.assertEqual(lines[0], "gr\u00fcn (x:1.2)")
        self.assertEqual(lines[1], "Negative prompt: blue")
        for part in ("Steps: 3", "Sampler: dpmpp_2m", "Schedule type: karras", "CFG scale: 6.5", "Seed: 7",
                     "Size: 64x64", "Model: tiny"):
            self.assertIn(part, lines[2])
        facts = json.loads(picture.text["atelier"])
        self.assertEqual((facts["batch"], facts["width"], facts["height"], facts["steps"]), (1, 64, 64, 3))
        self.assertEqual({facts[k] for k in ("dtype", "text_dtype", "vae_dtype")} - {"fp32", "bf16", "fp16"}, set())
        self.assertEqual((facts["prompt"], facts["negative"], facts["seed"]), ("gr\u00fcn (x:1.2)", "blue", 7))
        self.assertEqual((facts["sampler"], facts["scheduler"], facts["cfg"]), ("dpmpp_2m", "karras", 6.5))

    def test_carry_what_else_their_bytes_depend_on(self):
        picture = self.picture("--tiled-vae", "--clip-skip", "2", "--vae-dtype", "fp32", "--batch", "1", "--end-step", "2",
                               "--vae", model("tiny"))
        facts = json.loads(picture.text["atelier"])
        self.assertEqual([facts[k] for k in ("tiled_vae", "clip_skip", "vae_dtype", "end_step", "vae")],
                         [True, 2, "fp32", 2, "tiny.safetensors"])

    def test_can_be_jpeg_and_webp(self):
        self.assertEqual(self.draw(out="a.jpg").code, 0)
        self.assertEqual(self.draw(out="a.webp").code, 0)
        self.assertTrue((self.folder / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff"))
        self.assertTrue((self.folder / "a.webp").read_bytes().startswith(b"RIFF"))

    def test_never_overwrite_unasked(self):
        for expected in ("a.png", "a_2.png", "a_3.png"):
            self.assertEqual(self.draw().event("image")["file"], str(self.folder / expected))
        self.assertEqual(self.draw("--overwrite", seed="8").event("image")["file"], str(self.folder / "a.png"))
        self.assertEqual(self.files(), ["a.png", "a_2.png", "a_3.png"])
        self.assertNotEqual((self.folder / "a.png").read_bytes(), (self.folder / "a_2.png").read_bytes())

    def test_of_one_call_never_share_a_name(self):
        result = self.draw("--batch", "2", "--overwrite")
        self.assertEqual(len(set(result.event("done")["images"])), 2)

    def test_make_a_contact_sheet(self):
        result = self.draw("--batch", "2", "-p", "b", "-p", "c", "--sheet", self.folder / "sheet.png", out="{index}.png")
        sheet = result.event("sheet")
        self.assertEqual((sheet["columns"], sheet["rows"]), (2, 3))
        picture = Png(self.folder / "sheet.png")
        self.assertGreaterEqual(picture.width, 2 * 64)
        self.assertGreaterEqual(picture.height, 3 * 64)
        self.assertLess(picture.width, 2 * 64 + 64)

    def test_depend_on_the_options(self):
        base = self.picture()
        for words in (("--cfg", "1"), ("-n", "blue"), ("--sampler", "euler_ancestral"), ("--scheduler", "karras"),
                      ("--clip-skip", "2")):
            self.assertGreater(self.picture(*words).difference(base), 0.01, words)
        self.assertGreater(self.picture(seed="8").difference(base), 1)
        self.assertGreater(self.picture(prompt="a blue square").difference(base), 0.01)

    def test_of_very_different_prompts_are_drawn_branch_by_branch(self):
        words = " ".join(f"word{i}" for i in range(130))
        self.assertEqual(self.draw("-n", " ".join([words] * 2), prompt=words).code, 0)

    def test_with_more_threads_than_cores_come_with_a_warning(self):
        result = self.draw("--threads", str(2 * os.cpu_count() + 1))
        self.assertEqual(result.code, 0)
        self.assertIn("--threads", result.event("warning")["message"])

    def test_ignore_the_negative_prompt_at_cfg_1(self):
        self.assertEqual(self.picture("--cfg", "1", "-n", "blue").rows, self.picture("--cfg", "1").rows)

    def test_have_any_size_that_8_divides(self):
        for width, height in ((72, 104), (16, 200), (136, 64)):
            picture = self.picture(small=("--width", str(width), "--height", str(height), "--steps", "2"))
            self.assertEqual((picture.width, picture.height), (width, height))

    def test_in_bf16_are_close_to_fp32(self):
        exact, rounded = self.picture("--dtype", "fp32"), self.picture("--dtype", "bf16")
        self.assertLess(exact.difference(rounded), 8)
        self.assertGreater(exact.difference(rounded), 0)

    def test_decoded_in_tiles_are_close(self):
        size = ("--width", "640", "--height", "512", "--steps", "1")
        whole, tiled = self.picture(small=size), self.picture("--tiled-vae", small=size)
        self.assertLess(whole.difference(tiled), 12)


class ImageToImage(Generate):
    def setUp(self):
        super().setUp()
        self.init = self.folder / "init.png"
        write_png(self.init, 64, 64, lambda x, y: (4 * x, 4 * y, 128))

    def test_strength_says_how_much_changes(self):
        base = self.picture("--init-image", self.init, "--strength", "0")
        ten = ("--width", "64", "--height", "64", "--steps", "10")
        little = self.picture("--init-image", self.init, "--strength", "0.2", small=ten)
        much = self.picture("--init-image", self.init, "--strength", "0.9", small=ten)
        self.assertLess(base.difference(little), base.difference(much))

    def test_a_picture_of_another_size_is_scaled(self):
        write_png(self.init, 200, 100, lambda x, y: (x, y, 128))
        self.assertEqual(self.draw("--init-image", self.init).code, 0)

    def test_a_mask_keeps_what_is_black(self):
        mask = self.folder / "mask.png"
        write_png(mask, 64, 64, lambda x, y: (255,) * 3 if x >= 32 else (0,) * 3)
        for kind in ("tiny", "tiny-inpaint"):
            picture = self.picture("--init-image", self.init, "--mask", mask, kind=kind)
            kept = [picture.pixel(x, y) for x in range(0, 24, 4) for y in range(0, 64, 4)]
            self.assertEqual(kept, [(4 * x, 4 * y, 128) for x in range(0, 24, 4) for y in range(0, 64, 4)])
            drawn = [picture.pixel(x, y) for x in range(40, 64, 4) for y in range(0, 64, 4)]
            self.assertNotEqual(drawn, [(4 * x, 4 * y, 128) for x in range(40, 64, 4) for y in range(0, 64, 4)])

    def test_a_mask_of_another_size_covers_the_whole_picture(self):
        write_png(self.init, 128, 64, lambda x, y: (2 * x, 4 * y, 128))
        wide, square = self.folder / "wide.png", self.folder / "square.png"
        write_png(wide, 128, 64, lambda x, y: (255,) * 3 if x >= 64 else (0,) * 3)
        write_png(square, 64, 64, lambda x, y: (255,) * 3 if x >= 32 else (0,) * 3)
        pictures = [self.picture("--init-image", self.init, "--mask", mask) for mask in (wide, square)]
        self.assertLess(pictures[0].difference(pictures[1]), 2)
        self.assertEqual(pictures[1].pixel(8, 32), (2 * (8 + 32), 128, 128))

    def test_broken_pictures_are_one_line(self):
        broken = self.folder / "broken.png"
        broken.write_bytes(self.init.read_bytes()[:60])
        self.assert_fails(self.draw("--init-image", broken), 1, "broken.png")
        broken.write_bytes(b"no picture at all")
        self.assert_fails(self.draw("--init-image", broken), 1, "broken.png")
        self.assert_fails(self.draw("--init-image", self.init, "--mask", broken), 1, "broken.png")


class PartsOfARun(Generate):
    """--start-step, --end-step and --init-latent: one model's run that another goes on with."""

    SIX = ("--width", "64", "--height", "64", "--steps", "6", "--dtype", "fp32")

    def latent(self, name, *words, **more):
        """The values of the latent a run leaves."""
        result = self.draw(*words, "--save-latent", self.folder / name, "--overwrite", small=self.SIX, **more)
        self.assertEqual(result.code, 0, result.err)
        data = read_safetensors(self.folder / name)[1]["latent_tensor"]
        return struct.unpack(f"<{len(data) // 4}f", data), result

    def apart(self, a, b):
        return max(abs(x - y) for x, y in zip(a, b)) / max(map(abs, b))

    def test_two_halves_are_the_whole(self):
        whole, _ = self.latent("whole.safetensors")
        half, first = self.latent("half.safetensors", "--end-step", "3", "--keep-noise")
        both, second = self.latent("both.safetensors", "--init-latent", self.folder / "half.safetensors",
                                   "--no-noise", "--start-step", "3")
        self.assertEqual([first.event("plan")["steps"], second.event("plan")["steps"]], [3, 3])
        self.assertGreater(self.apart(half, whole), 0.01)
        self.assertLess(self.apart(both, whole), 1e-3)

    def test_an_early_end_without_keeping_noise_is_a_finished_picture(self):
        kept, _ = self.latent("a.safetensors", "--end-step", "3", "--keep-noise")
        ended, _ = self.latent("b.safetensors", "--end-step", "3")
        self.assertGreater(self.apart(ended, kept), 0.01)

    def test_a_latent_gives_size_and_strength(self):
        self.latent("a.safetensors")
        start = ("--init-latent", self.folder / "a.safetensors")
        result = self.draw(*start, small=("--steps", "4"))
        self.assertEqual((result.event("plan")["width"], result.event("plan")["strength"]), (64, 0.75))
        result = self.draw(*start, "--batch", "2", out="{index}.png", small=("--steps", "2"))
        self.assertEqual(len(result.event("done")["images"]), 2)
        same, _ = self.latent("b.safetensors", *start, "--strength", "0")
        self.assertLess(self.apart(same, self.latent("c.safetensors")[0]), 1e-6)

    def test_a_latent_that_does_not_fit_is_one_line(self):
        self.latent("a.safetensors", "--batch", "2", out="{index}.png")
        start = ("--init-latent", self.folder / "a.safetensors")
        self.assert_fails(self.draw(*start, small=("--width", "72")), 1, "--width", "64 pixels")
        self.assert_fails(self.draw(*start, "--batch", "3", small=()), 1, "--batch", "2 pictures")
        self.assert_fails(self.draw("--init-latent", model("tiny"), small=()), 1, "latent_tensor")
        self.assert_fails(self.draw("--init-latent", self.folder / "none", small=()), 1, "--init-latent", "exist")

    def test_options_that_contradict_each_other(self):
        self.latent("a.safetensors")
        start = ("--init-latent", self.folder / "a.safetensors")
        for words, said in ((("--keep-noise",), "--end-step"), (("--no-noise",), "--init-image"),
                            ((*start, "--init-image", self.folder / "a.png"), "cannot be used"),
                            ((*start, "--strength", "0.5", "--start-step", "1"), "--strength"),
                            (("--start-step", "3"), "no step is left"),
                            (("--start-step", "2", "--end-step", "2"), "no step is left")):
            self.assert_fails(self.draw(*words), 2, said)


class Families(Generate):
    def test_every_family_draws(self):
        for kind in ("tiny", "tiny-inpaint", "tiny-sd2", "tiny-sd2-v", "tiny-xl", "tiny-refiner"):
            with self.subTest(kind=kind):
                picture = self.picture(kind=kind)
                values = set(b"".join(picture.rows))
                self.assertGreater(len(values), 30, "a flat picture")

    def test_every_sampler_and_scheduler_draws(self):
        text = atelier("generate", "--help").out
        for option, title in (("--sampler", "Samplers"), ("--scheduler", "Schedulers")):
            for name in re.search(rf"^{title}: (.*)$", text, re.M).group(1).split(", "):
                with self.subTest(option=option, name=name):
                    result = self.draw(option, name, "--overwrite", small=("--width", "32", "--height", "32",
                                                                           "--steps", "3"))
                    self.assertEqual(result.code, 0, result.err)


class Checkpoints(Generate):
    def test_the_latent_is_written_as_comfyui_does(self):
        self.draw("--batch", "2", "--save-latent", self.folder / "a.latent", out="{index}.png")
        header, tensors = read_safetensors(self.folder / "a.latent")
        self.assertEqual(header["latent_tensor"]["dtype"], "F32")
        self.assertEqual(header["latent_tensor"]["shape"], [2, 4, 8, 8])
        self.assertEqual(header["latent_format_version_0"]["shape"], [0])
        values = struct.unpack("<512f", tensors["latent_tensor"])
        self.assertTrue(all(abs(v) < 1e4 for v in values))
        self.assertGreater(max(map(abs, values)), 0)

    def test_previews_follow_the_steps(self):
        result = self.draw("--preview", self.folder / "p.png")
        previews = [e for e in result.events if e["event"] == "preview"]
        self.assertEqual([e["step"] for e in previews], [1, 2, 3])
        picture = Png(self.folder / "p.png")
        self.assertEqual((picture.width, picture.height), (64, 64))

    def test_previews_can_come_from_a_tiny_autoencoder(self):
        weights = ROOT / "tests/golden/models/taesd/taesd_decoder.safetensors"
        self.assertEqual(self.draw("--preview", self.folder / "a_preview.png").code, 0)
        result = self.draw("--preview", self.folder / "b_preview.png", "--preview-decoder", weights)
        self.assertEqual(result.code, 0, result.err)
        linear, tiny = Png(self.folder / "a_preview.png"), Png(self.folder / "b_preview.png")
        self.assertEqual((tiny.width, tiny.height), (64, 64))
        self.assertGreater(linear.difference(tiny), 1)
        result = self.draw("--preview", self.folder / "c_preview.png", "--preview-decoder", model("tiny"))
        self.assert_fails(result, 1, "tiny")

    def test_a_vae_of_its_own(self):
        base = self.picture()
        self.assertGreater(self.picture("--vae", model("tiny-xl")).difference(base), 1)
        self.assertEqual(self.picture("--vae", model("tiny")).rows, base.rows)
        write_png(self.folder / "x.png", 8, 8, lambda x, y: (0, 0, 0))
        self.assert_fails(self.draw("--vae", self.folder / "x.png"), 1, "x.png")

    def test_text_encoders_of_their_own(self):
        base = self.picture()
        self.assertEqual(self.picture("--text-encoder", model("tiny")).rows, base.rows)
        self.assertGreater(self.picture("--text-encoder", model("tiny-inpaint")).difference(base), 0.01)
        self.assert_fails(self.draw("--text-encoder", model("tiny-sd2")), 1, "tiny-sd2")

    def test_embeddings(self):
        folder = self.folder / "embeddings"
        folder.mkdir()
        values = struct.pack("<128f", *(0.02 * ((7 * i) % 11 - 5) for i in range(128)))
        header = json.dumps({"emb_params": {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512]}}).encode()
        (folder / "style.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
        base = self.picture("--embeddings", folder, prompt="a circle")
        used = self.picture("--embeddings", folder, prompt="a circle embedding:style")
        self.assertGreater(used.difference(base), 0.01)
        missing = self.draw("--embeddings", folder, "--overwrite", prompt="a circle embedding:none")
        self.assertEqual(missing.code, 0)
        self.assertIn("none", missing.event("warning")["message"])
        self.assertEqual(Png(self.folder / "a.png").rows, base.rows)

    def test_embeddings_without_a_folder_are_words_and_a_warning(self):
        result = self.draw(prompt="a circle embedding:style")
        self.assertIn("--embeddings", result.event("warning")["message"])

    def test_broken_checkpoints_are_one_line(self):
        whole = model("tiny").read_bytes()
        for name, content in (("cut.safetensors", whole[:len(whole) // 2]), ("header.safetensors", whole[:100]),
                              ("noise.safetensors", b"\x93" * 4096), ("empty.safetensors", b""),
                              ("text.ckpt", b"<html>not found</html>")):
            path = self.folder / name
            path.write_bytes(content)
            result = atelier("generate", "-m", path, "-p", "x", "--out", self.folder / "a.png")
            self.assert_fails(result, 1, name)
        self.assertEqual([f for f in self.files() if f.endswith("png")], [])

    def test_a_file_of_another_kind_says_what_it_lacks(self):
        header = json.dumps({"lora.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        path = self.folder / "lora.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        self.assert_fails(atelier("generate", "-m", path, "-p", "x"), 1, "lora.safetensors")

    def test_an_output_folder_that_cannot_be_made(self):
        (self.folder / "file").write_text("x")
        self.assert_fails(self.draw(out="file/a.png"), 1, "--out", "file")

    def test_a_size_too_large_for_memory_fails_before_loading(self):
        start = time.monotonic()
        result = self.draw("--batch", "64", small=("--width", "16384", "--height", "16384"))
        self.assert_fails(result, 1, "memory", "GiB")
        self.assertEqual(result.event("error")["code"], "out_of_memory")
        self.assertLess(time.monotonic() - start, 10)


class CtrlC(Generate):
    def start(self):
        """A run of many steps after its first one."""
        process = subprocess.Popen([BIN, "generate", "-m", model("tiny"), "-p", "x", "--json", "--steps", "5000",
                                    "--width", "128", "--height", "128", "--out", self.folder / "a.png"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        for line in process.stdout:
            if json.loads(line)["event"] == "step":
                return process
        self.fail(process.stderr.read())

    def test_stops_within_a_step_and_leaves_nothing(self):
        process = self.start()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual(json.loads(out.splitlines()[-1])["code"], "cancelled")
        self.assertIn("error: ", err)
        self.assertEqual(self.files(), [])

    def test_twice_ends_at_once(self):
        process = self.start()
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        self.assertIn(process.returncode, (-signal.SIGINT, -signal.SIGTERM, 130))
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    unittest.main()
