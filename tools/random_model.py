#!/usr/bin/env python3
"""Writes checkpoints with random weights: real size or tiny, original single-file layout.

    tools/random_model.py sd15 build/sd15.safetensors [--dtype f16|bf16|f32] [--seed N]
    tools/random_model.py flux build/flux.safetensors --depth 2,4,3 --part transformer

--part writes one part of a model as a file of its own, with the weights it has in the whole; --depth shortens
FLUX.1 (double and single blocks) and, with a third number, its T5, at their real widths.

They have the tensor names and shapes of the released models and weights scaled so that activations stay
finite, so loading, memory and speed can be measured without a download. The pictures are noise. The same
arguments give the same bytes. Needs nothing but the standard library.
"""
import argparse
import json
import math
import os
import random
import struct
import sys
import zlib

POOL = 1 << 20  # normal values drawn; tensors are cut from them at places that depend on their names
CLIP_L = dict(width=768, layers=12)
OPEN_CLIP_H = dict(width=1024, layers=24)
OPEN_CLIP_G = dict(width=1280, layers=32)
VAE = dict(base=128, mult=(1, 2, 4, 4))
TINY_VAE = dict(base=32, mult=(1, 1, 1, 1))
TINY_CLIP = dict(width=64, layers=2)
T5_XXL = dict(width=4096, hidden=10240, heads=64, layers=24)
TINY_T5 = dict(width=64, hidden=128, heads=4, layers=2)
FLUX_VAE = dict(VAE, channels=16, quant=False)
TINY_FLUX_VAE = dict(TINY_VAE, channels=16, quant=False)


def unet(base, mult, depth, middle, context, adm=0, channels=4, linear=False):
    """Configuration of a UNet; `depth` is the number of transformer blocks at each level."""
    return dict(base=base, mult=mult, depth=depth, middle=middle, context=context, adm=adm,
                channels=channels, linear=linear)


SD1 = dict(base=320, mult=(1, 2, 4, 4), depth=(1, 1, 1, 0), middle=1, context=768)
SD2 = dict(SD1, context=1024, linear=True)
SDXL = dict(base=320, mult=(1, 2, 4), depth=(0, 2, 10), middle=10, context=2048, adm=2816, linear=True)
REFINER = dict(base=384, mult=(1, 2, 4, 4), depth=(0, 4, 4, 0), middle=4, context=1280, adm=2560, linear=True)
TINY = dict(base=32, mult=(1, 1, 1, 2), depth=(1, 1, 1, 0), middle=1, context=64)
TINY_XL = dict(base=64, mult=(1, 1, 1), depth=(0, 1, 2), middle=2, context=128, adm=64 + 6 * 256, linear=True)

# name: (UNet, family of the text encoders, their configuration, VAE)
KINDS = {
    "sd15": (unet(**SD1), "sd1", CLIP_L, VAE),
    "sd15-inpaint": (unet(**SD1, channels=9), "sd1", CLIP_L, VAE),
    "sd2": (unet(**SD2), "sd2", OPEN_CLIP_H, VAE),
    "sd2-v": (unet(**SD2), "sd2", OPEN_CLIP_H, VAE),
    "sd2-inpaint": (unet(**SD2, channels=9), "sd2", OPEN_CLIP_H, VAE),
    "sdxl": (unet(**SDXL), "sdxl", (CLIP_L, OPEN_CLIP_G), VAE),
    "sdxl-v": (unet(**SDXL), "sdxl", (CLIP_L, OPEN_CLIP_G), VAE),
    "sdxl-inpaint": (unet(**SDXL, channels=9), "sdxl", (CLIP_L, OPEN_CLIP_G), VAE),
    "sdxl-refiner": (unet(**REFINER), "refiner", OPEN_CLIP_G, VAE),
    "tiny": (unet(**TINY), "sd1", TINY_CLIP, TINY_VAE),
    "tiny-inpaint": (unet(**TINY, channels=9), "sd1", TINY_CLIP, TINY_VAE),
    "tiny-sd2": (unet(**dict(TINY, base=64, linear=True)), "sd2", TINY_CLIP, TINY_VAE),
    "tiny-sd2-v": (unet(**dict(TINY, base=64, linear=True)), "sd2", TINY_CLIP, TINY_VAE),
    "tiny-xl": (unet(**TINY_XL), "sdxl", (TINY_CLIP, TINY_CLIP), TINY_VAE),
    "tiny-refiner": (unet(**dict(TINY_XL, context=64, adm=64 + 5 * 256)), "refiner", TINY_CLIP, TINY_VAE),
}

FLUX = dict(hidden=3072, head=128, depth=(19, 38), context=4096, vector=768, channels=16, guidance=True)
TINY_FLUX = dict(hidden=64, head=32, depth=(2, 2), context=64, vector=64, channels=16, guidance=True)
# name: (transformer, CLIP-L, T5, VAE)
FLUX_KINDS = {
    f"{size}flux{name}": (dict(transformer, **change), *parts)
    for size, transformer, parts in (("", FLUX, (CLIP_L, T5_XXL, FLUX_VAE)),
                                     ("tiny-", TINY_FLUX, (TINY_CLIP, TINY_T5, TINY_FLUX_VAE)))
    for name, change in (("", {}), ("-schnell", dict(guidance=False)), ("-control", dict(channels=32)),
                         ("-fill", dict(channels=96)))
}
# Where a whole FLUX.1 checkpoint keeps its parts.
FLUX_PARTS = {"transformer": "model.diffusion_model.", "clip-l": "text_encoders.clip_l.transformer.",
              "t5": "text_encoders.t5xxl.transformer.", "vae": "vae."}


class Names:
    """Collects rows (name, shape, mean, standard deviation) under a prefix."""

    def __init__(self, rows, prefix=""):
        self.rows, self.prefix = rows, prefix

    def __truediv__(self, child):
        return Names(self.rows, f"{self.prefix}{child}.")

    def tensor(self, leaf, shape, std, mean=0.0):
        self.rows.append((self.prefix + leaf, tuple(shape), mean, std))

    def linear(self, name, cin, cout, gain=1.0, bias=True):
        (self / name).tensor("weight", (cout, cin), gain / math.sqrt(cin))
        if bias:
            (self / name).tensor("bias", (cout,), 0.02)

    def conv(self, name, cin, cout, size=3, gain=1.0):
        (self / name).tensor("weight", (cout, cin, size, size), gain / math.sqrt(cin * size * size))
        (self / name).tensor("bias", (cout,), 0.02)

    def scale(self, name, width, leaf="weight"):
        (self / name).tensor(leaf, (width,), 0.1, 1.0)

    def norm(self, name, width, bias=0.05):
        (self / name).tensor("weight", (width,), 0.1, 1.0)
        (self / name).tensor("bias", (width,), bias)


def res_block(w, cin, cout, emb):
    w.norm("in_layers.0", cin)
    w.conv("in_layers.2", cin, cout)
    w.linear("emb_layers.1", emb, cout)
    w.norm("out_layers.0", cout)
    w.conv("out_layers.3", cout, cout, gain=0.5)
    if cin != cout:
        w.conv("skip_connection", cin, cout, size=1)


def transformer(w, width, depth, c, norm_bias):
    project = (lambda name, gain: w.linear(name, width, width, gain)) if c["linear"] else (
        lambda name, gain: w.conv(name, width, width, 1, gain))
    w.norm("norm", width)
    project("proj_in", 1.0)
    for i in range(depth):
        block = w / f"transformer_blocks.{i}"
        for name, source in (("attn1", width), ("attn2", c["context"])):
            block.linear(f"{name}.to_q", width, width, bias=False)
            block.linear(f"{name}.to_k", source, width, bias=False)
            block.linear(f"{name}.to_v", source, width, bias=False)
            block.linear(f"{name}.to_out.0", width, width, gain=0.5)
        block.linear("ff.net.0.proj", width, 8 * width)
        block.linear("ff.net.2", 4 * width, width, gain=0.5)
        for name in ("norm1", "norm2", "norm3"):
            block.norm(name, width, norm_bias)
    project("proj_out", 0.5)


def write_unet(w, c, norm_bias):
    base, mult, emb = c["base"], c["mult"], 4 * c["base"]
    w.linear("time_embed.0", base, emb)
    w.linear("time_embed.2", emb, emb)
    if c["adm"]:
        w.linear("label_emb.0.0", c["adm"], emb)
        w.linear("label_emb.0.2", emb, emb)
    w.conv("input_blocks.0.0", c["channels"], base)
    width, skips, index = base, [base], 0
    for level, m in enumerate(mult):
        for _ in range(2):
            index += 1
            res_block(w / f"input_blocks.{index}.0", width, base * m, emb)
            width = base * m
            if c["depth"][level]:
                transformer(w / f"input_blocks.{index}.1", width, c["depth"][level], c, norm_bias)
            skips.append(width)
        if level + 1 < len(mult):
            index += 1
            w.conv(f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
    res_block(w / "middle_block.0", width, width, emb)
    transformer(w / "middle_block.1", width, c["middle"], c, norm_bias)
    res_block(w / "middle_block.2", width, width, emb)
    index = 0
    for level in reversed(range(len(mult))):
        for i in range(3):
            parts = 1
            res_block(w / f"output_blocks.{index}.0", width + skips.pop(), base * mult[level], emb)
            width = base * mult[level]
            if c["depth"][level]:
                transformer(w / f"output_blocks.{index}.1", width, c["depth"][level], c, norm_bias)
                parts = 2
            if level and i == 2:
                w.conv(f"output_blocks.{index}.{parts}.conv", width, width)
            index += 1
    w.norm("out.0", width)
    w.conv("out.2", width, 4, gain=1.6)


def write_clip(w, width, layers):
    """Text encoder with the names of the transformers package."""
    (w / "embeddings.token_embedding").tensor("weight", (49408, width), 0.02)
    (w / "embeddings.position_embedding").tensor("weight", (77, width), 0.01)
    for i in range(layers):
        layer = w / f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj"):
            layer.linear(f"self_attn.{name}", width, width)
        layer.linear("self_attn.out_proj", width, width, gain=0.3)
        layer.norm("layer_norm1", width)
        layer.linear("mlp.fc1", width, 4 * width)
        layer.linear("mlp.fc2", 4 * width, width, gain=0.3)
        layer.norm("layer_norm2", width)
    w.norm("final_layer_norm", width)


def write_open_clip(w, width, layers):
    """Text encoder with the names of the open_clip package."""
    (w / "token_embedding").tensor("weight", (49408, width), 0.02)
    w.tensor("positional_embedding", (77, width), 0.01)
    w.tensor("text_projection", (width, width), width ** -0.5)
    for i in range(layers):
        block = w / f"transformer.resblocks.{i}"
        block.norm("ln_1", width)
        block.tensor("attn.in_proj_weight", (3 * width, width), width ** -0.5)
        block.tensor("attn.in_proj_bias", (3 * width,), 0.02)
        block.linear("attn.out_proj", width, width, gain=0.3)
        block.norm("ln_2", width)
        block.linear("mlp.c_fc", width, 4 * width)
        block.linear("mlp.c_proj", 4 * width, width, gain=0.3)
    w.norm("ln_final", width)


def write_text(rows, family, config):
    if family == "sd1":
        write_clip(Names(rows, "cond_stage_model.transformer.text_model."), **config)
    elif family == "sd2":
        write_open_clip(Names(rows, "cond_stage_model.model."), **config)
    elif family == "sdxl":
        write_clip(Names(rows, "conditioner.embedders.0.transformer.text_model."), **config[0])
        write_open_clip(Names(rows, "conditioner.embedders.1.model."), **config[1])
    elif family == "refiner":
        write_open_clip(Names(rows, "conditioner.embedders.0.model."), **config)


def write_t5(w, width, hidden, heads, layers):
    w.tensor("shared.weight", (32128, width), 1.0)
    for i in range(layers):
        attention, feed_forward = (w / f"encoder.block.{i}.layer.{j}" for j in (0, 1))
        for name, gain in (("q", (heads / width) ** 0.5), ("k", 1.0), ("v", 1.0), ("o", 0.5)):
            attention.linear(f"SelfAttention.{name}", width, width, gain, bias=False)
        if i == 0:
            attention.tensor("SelfAttention.relative_attention_bias.weight", (32, heads), 1.0)
        attention.scale("layer_norm", width)
        feed_forward.linear("DenseReluDense.wi_0", width, hidden, bias=False)
        feed_forward.linear("DenseReluDense.wi_1", width, hidden, bias=False)
        feed_forward.linear("DenseReluDense.wo", hidden, width, gain=0.5, bias=False)
        feed_forward.scale("layer_norm", width)
    (w / "encoder").scale("final_layer_norm", width)


def write_flux(w, c):
    hidden = c["hidden"]
    w.linear("img_in", 4 * c["channels"], hidden)
    w.linear("txt_in", c["context"], hidden)
    for name, width in (("time_in", 256), ("vector_in", c["vector"]), ("guidance_in", 256)):
        if name != "guidance_in" or c["guidance"]:
            w.linear(f"{name}.in_layer", width, hidden)
            w.linear(f"{name}.out_layer", hidden, hidden)
    for i in range(c["depth"][0]):
        block = w / f"double_blocks.{i}"
        for stream in ("img", "txt"):
            block.linear(f"{stream}_mod.lin", hidden, 6 * hidden, gain=0.5)
            block.linear(f"{stream}_attn.qkv", hidden, 3 * hidden)
            for name in ("query_norm", "key_norm"):
                block.scale(f"{stream}_attn.norm.{name}", c["head"], "scale")
            block.linear(f"{stream}_attn.proj", hidden, hidden)
            block.linear(f"{stream}_mlp.0", hidden, 4 * hidden)
            block.linear(f"{stream}_mlp.2", 4 * hidden, hidden)
    for i in range(c["depth"][1]):
        block = w / f"single_blocks.{i}"
        block.linear("modulation.lin", hidden, 3 * hidden, gain=0.5)
        block.linear("linear1", hidden, 7 * hidden)
        for name in ("query_norm", "key_norm"):
            block.scale(f"norm.{name}", c["head"], "scale")
        block.linear("linear2", 5 * hidden, hidden)
    w.linear("final_layer.adaLN_modulation.1", hidden, 2 * hidden, gain=0.5)
    w.linear("final_layer.linear", hidden, 64)


def vae_block(w, cin, cout):
    w.norm("norm1", cin)
    w.conv("conv1", cin, cout)
    w.norm("norm2", cout)
    w.conv("conv2", cout, cout, gain=0.5)
    if cin != cout:
        w.conv("nin_shortcut", cin, cout, size=1)


def vae_middle(w, width):
    vae_block(w / "block_1", width, width)
    (w / "attn_1").norm("norm", width)
    for name, gain in (("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", 0.5)):
        (w / "attn_1").conv(name, width, width, 1, gain)
    vae_block(w / "block_2", width, width)


def write_vae(w, base, mult, channels=4, quant=True):
    encoder, decoder, width = w / "encoder", w / "decoder", base
    encoder.conv("conv_in", 3, base)
    for level, m in enumerate(mult):
        for i in range(2):
            vae_block(encoder / f"down.{level}.block.{i}", width, base * m)
            width = base * m
        if level + 1 < len(mult):
            encoder.conv(f"down.{level}.downsample.conv", width, width)
    vae_middle(encoder / "mid", width)
    encoder.norm("norm_out", width)
    encoder.conv("conv_out", width, 2 * channels, gain=2.0)
    decoder.conv("conv_in", channels, width)
    vae_middle(decoder / "mid", width)
    for level in reversed(range(len(mult))):
        for i in range(3):
            vae_block(decoder / f"up.{level}.block.{i}", width, base * mult[level])
            width = base * mult[level]
        if level:
            decoder.conv(f"up.{level}.upsample.conv", width, width)
    decoder.norm("norm_out", width)
    decoder.conv("conv_out", width, 3, gain=0.8)
    if quant:
        w.conv("quant_conv", 2 * channels, 2 * channels, size=1)
        w.conv("post_quant_conv", channels, channels, size=1)


def flux_tensors(kind, depth):
    transformer, clip, t5, vae = FLUX_KINDS[kind]
    if depth:
        transformer = dict(transformer, depth=depth[:2])
        t5 = dict(t5, layers=(*depth, t5["layers"])[2])
    rows = []
    write_flux(Names(rows, FLUX_PARTS["transformer"]), transformer)
    write_clip(Names(rows, FLUX_PARTS["clip-l"] + "text_model."), **clip)
    write_t5(Names(rows, FLUX_PARTS["t5"]), **t5)
    write_vae(Names(rows, FLUX_PARTS["vae"]), **vae)
    return rows


def tensors_of(kind, depth):
    """All rows (name, shape, mean, standard deviation) of one kind, in file order."""
    if kind in FLUX_KINDS:
        return flux_tensors(kind, depth)
    config, family, text, vae = KINDS[kind]
    rows = []
    # SD 2.x checkpoints tell v-prediction by the spread of this family of biases.
    norm_bias = 0.3 if kind in ("sd2-v", "tiny-sd2-v") else 0.02
    write_unet(Names(rows, "model.diffusion_model."), config, norm_bias)
    write_text(rows, family, text)
    write_vae(Names(rows, "first_stage_model."), **vae)
    if kind == "sdxl-v":
        rows += [("v_pred", (0,), 0.0, 0.0), ("ztsnr", (0,), 0.0, 0.0)]
    return rows


def pack_f16(values):
    return struct.pack(f"<{len(values)}e", *values)


def pack_f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def pack_bf16(values):
    whole = pack_f32(values)
    half = bytearray(len(whole) // 2)
    half[0::2], half[1::2] = whole[2::4], whole[3::4]
    return bytes(half)


DTYPES = {"f16": ("F16", 2, pack_f16), "bf16": ("BF16", 2, pack_bf16), "f32": ("F32", 4, pack_f32)}


class Weights:
    """Encoded normal values by mean and standard deviation."""

    def __init__(self, kind, dtype, seed):
        source = random.Random(seed)
        self.normals = [source.gauss(0.0, 1.0) for _ in range(POOL)]
        self.size, self.pack = DTYPES[dtype][1:]
        self.place, self.pools = f"{kind} {seed}", {}

    def pool(self, mean, std):
        if (mean, std) not in self.pools:
            encoded = self.pack([mean + std * n for n in self.normals])
            self.pools[mean, std] = memoryview(encoded + encoded)
        return self.pools[mean, std]

    def write(self, file, name, count, mean, std):
        std = 2.0 ** (round(4 * math.log2(std)) / 4) if std > 0 else 0.0
        pool, place = self.pool(mean, std), zlib.crc32(f"{self.place} {name}".encode())
        while count > 0:
            part = min(count, POOL)
            place = (place * 1103515245 + 12345) % (1 << 32)
            start = place % POOL * self.size
            file.write(pool[start:start + part * self.size])
            count -= part


def write_model(kind, path, dtype, seed, depth=None, part=None):
    prefix = FLUX_PARTS[part] if part else ""
    rows = [row for row in sorted(tensors_of(kind, depth)) if row[0].startswith(prefix)]
    header, offset = {"__metadata__": {"title": f"random weights, {kind}"}}, 0
    for name, shape, _, _ in rows:
        size = math.prod(shape) * DTYPES[dtype][1]
        header[name.removeprefix(prefix)] = {"dtype": DTYPES[dtype][0], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    weights, unfinished = Weights(kind, dtype, seed), f"{path}.part"
    try:
        with open(unfinished, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, shape, mean, std in rows:
                weights.write(file, name, math.prod(shape), mean, std)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return len(rows), offset


def depth_of(text):
    numbers = tuple(int(number) for number in text.split(","))
    if len(numbers) not in (2, 3) or min(numbers) < 1:
        raise ValueError
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=sorted(KINDS | FLUX_KINDS))
    parser.add_argument("out", help="the .safetensors file to write")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--depth", type=depth_of, help="of FLUX.1: double and single blocks, layers of T5, as 2,4,3")
    parser.add_argument("--part", choices=sorted(FLUX_PARTS), help="write this part of FLUX.1 alone")
    options = parser.parse_args()
    if (options.depth or options.part) and options.kind not in FLUX_KINDS:
        parser.error("--depth and --part are for FLUX.1")
    count, size = write_model(options.kind, options.out, options.dtype, options.seed, options.depth, options.part)
    print(f"{options.out}: {options.kind}, {count} tensors, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
