#!/usr/bin/env python3
"""Files as converters and other programs write them draw what the originals draw."""
import re
import unittest

from harness import ROOT, Case, Png, atelier, model, read_bytes, write_bytes

TOKENIZER = ROOT / "tests/golden/t5/spiece.model"
OPEN_CLIP = {"token_embedding.weight": "embeddings.token_embedding.weight",
             "positional_embedding": "embeddings.position_embedding.weight", "ln_final.weight": "final_layer_norm.weight",
             "ln_final.bias": "final_layer_norm.bias", "text_projection": "text_projection"}
IN_LAYERS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}


def renamed(tensors, old, new):
    """Tensors whose names begin with `old`, by their new names and prefix; the others as they are."""
    result = {}
    for name, tensor in tensors.items():
        if not name.startswith(old):
            result[name] = tensor
            continue
        own = name[len(old):]
        layer = re.match(r"transformer\.resblocks\.(\d+)\.(.*)", own)
        if not layer:
            result[f"{new}text_model.{OPEN_CLIP[own]}"] = tensor
        elif "in_proj" in own:
            dtype, (rows, *rest), data = tensor
            for i, letter in enumerate("qkv"):
                third = data[i * len(data) // 3:(i + 1) * len(data) // 3]
                result[f"{new}text_model.encoder.layers.{layer[1]}.self_attn.{letter}_proj.{own.rsplit('_', 1)[1]}"] = (
                    dtype, [rows // 3, *rest], third)
        else:
            module, leaf = layer[2].rsplit(".", 1)
            result[f"{new}text_model.encoder.layers.{layer[1]}.{IN_LAYERS[module]}.{leaf}"] = tensor
    return result


class Converters(Case):
    def draw(self, *words):
        result = atelier("generate", "-p", "a red circle", "--width", "64", "--height", "64", "--steps", "2", "--seed",
                         "7", "--json", "--overwrite", "--out", self.folder / "a.png", *words)
        self.assertEqual(result.code, 0, result.err)
        return Png(result.event("image")["file"]).rows

    def save(self, name, tensors):
        write_bytes(self.folder / name, tensors)
        return self.folder / name

    def test_stable_diffusion_cpp_names_text_encoders_its_own_way(self):
        for kind, old, new in (("tiny-sd2", "cond_stage_model.model.", "cond_stage_model.transformer."),
                               ("tiny-xl", "conditioner.embedders.1.model.", "cond_stage_model.1.transformer.")):
            tensors = renamed(read_bytes(model(kind)), old, new)
            tensors = {name.replace("conditioner.embedders.0.transformer.", "cond_stage_model.transformer."): tensor
                       for name, tensor in tensors.items()}
            self.assertEqual(self.draw("-m", self.save("a.safetensors", tensors)), self.draw("-m", model(kind)), kind)

    def test_it_writes_matrices_as_convolutions(self):
        tensors = {name: (dtype, shape + [1, 1] if re.search(r"diffusion_model.*proj_(in|out)\.weight$", name) else shape,
                          data) for name, (dtype, shape, data) in read_bytes(model("tiny-xl")).items()}
        self.assertIn([64, 64, 1, 1], [shape for _, shape, _ in tensors.values()])
        self.assertEqual(self.draw("-m", self.save("a.safetensors", tensors)), self.draw("-m", model("tiny-xl")))

    def test_whole_clip_models_and_saved_encoders(self):
        zero = ("F32", [4], bytes(16))
        clip, t5 = read_bytes(model("tiny-flux", "clip-l")), read_bytes(model("tiny-flux", "t5"))
        for name in ("vision_model.embeddings.class_embedding", "visual_projection.weight", "logit_scale"):
            clip[name] = zero
        t5["logit_scale"] = zero
        parts = ["--unet", model("tiny-flux", "transformer"), "--vae", model("tiny-flux", "vae"), "--t5-tokenizer", TOKENIZER]
        wanted = self.draw(*parts, "--clip-l", model("tiny-flux", "clip-l"), "--t5", model("tiny-flux", "t5"))
        self.assertEqual(self.draw(*parts, "--clip-l", self.save("clip.safetensors", clip),
                                   "--t5", self.save("t5.safetensors", t5)), wanted)


if __name__ == "__main__":
    unittest.main()
