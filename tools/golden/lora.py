"""Goldens of LoRAs: every kind of change to single weights (lora_kinds.py), and tiny models drawn with one.

The files beside `../lora/kinds` hold LoRAs of the tiny models of unet.py, flux.py and clip.py (run these first)
and what the changed models compute. Reference: diffusers' load_lora_weights and fuse_lora; for UNets and
transformers of LoRAs under the original's names, which diffusers takes for the released sizes alone, the products
are added to the original's tensors here.
"""

import json

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

import clip
import flux
import unet
from common import ROOT, metadata, randomize
from lora_kinds import draw, half, save_as, write_kinds


def pair(generator, weight, rank):
    """up and down of unit-like gain for a matrix or kernel."""
    gain = weight[0].numel() ** -0.5
    down = half(torch.randn(rank, *weight.shape[1:], generator=generator) * gain)
    up = half(torch.randn(weight.shape[0], rank, *[1] * (weight.dim() - 2), generator=generator) * 0.5)
    return up, down


def kohya(name, prefix, up, down, alpha):
    stem = prefix + name.removesuffix(".weight").replace(".", "_")
    return {f"{stem}.lora_up.weight": up.half(), f"{stem}.lora_down.weight": down.half(),
            f"{stem}.alpha": torch.tensor(alpha)}


def text_part(case_name):
    """A text encoder of clip.py under transformers' names."""
    case = clip.CASES[case_name]
    matrices = torch.float8_e4m3fn if case.get("fp8") else torch.float16
    return randomize(clip.model_of(case), case["seed"], matrices)


def hidden_of(model, case_name):
    case = clip.CASES[case_name]
    with torch.no_grad():
        output = model.text_model(input_ids=clip.chunks(case["pad"], case["seed"]))
    return output.last_hidden_state[:, ::8]


def unet_output(model, expected):
    added = {}
    handle = None
    if "vector" in expected:
        handle = model.add_embedding.register_forward_pre_hook(lambda _m, _i: (expected["vector"],))
        added = {"text_embeds": torch.zeros(2, 32), "time_ids": torch.zeros(2, 6)}
    with torch.no_grad():
        output = model(expected["x"], expected["timestep"], expected["context"], added_cond_kwargs=added).sample
    if handle:
        handle.remove()
    return output


def sd_pipeline(model, text):
    return StableDiffusionPipeline(vae=None, text_encoder=text, tokenizer=None, unet=model, scheduler=None,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def xl_pipeline(model, text, text_2):
    return StableDiffusionXLPipeline(vae=None, text_encoder=text, text_encoder_2=text_2, tokenizer=None,
                                     tokenizer_2=None, unet=model, scheduler=None, add_watermarker=False)


def text_tensors(generator, text, prefix, keep):
    file = {}
    for name, weight in text.state_dict().items():
        if any(piece in name for piece in keep) and name.endswith(".weight"):
            file |= kohya(name, prefix, *pair(generator, weight, 2), 1.5)
    return file


def write_sd1(seed):
    """kohya's names, those of diffusers with underscores; attention, feed-forward layers and kernels."""
    generator = torch.Generator().manual_seed(seed)
    case = unet.CASES["unet_sd1"]
    model, text = randomize(unet.model_of(case), case["seed"], torch.float8_e4m3fn), text_part("clip_l")
    keep = ("down_blocks.0", "mid_block.attentions", "up_blocks.1.attentions.1", "up_blocks.0.resnets.0.conv1",
            "up_blocks.0.upsamplers")
    file = {}
    for name, weight in model.state_dict().items():
        if name.endswith(".weight") and weight.dim() > 1 and name.startswith(keep):
            file |= kohya(name, "lora_unet_", *pair(generator, weight, 2), 1.0)
    file |= text_tensors(generator, text, "lora_te_", ("self_attn", "mlp"))
    pipe = sd_pipeline(model, text)
    pipe.load_lora_weights(dict(file))
    pipe.fuse_lora(lora_scale=0.8)
    expected = load_file(ROOT / "unet_sd1" / "expected.safetensors")
    results = {"output": unet_output(pipe.unet, expected), "text": hidden_of(pipe.text_encoder, "clip_l")}
    finish("sd1_kohya", file, results, seed, "0.8")


def write_sd2(seed):
    """kohya's names for a model with OpenCLIP's text encoder, as transformers has it."""
    generator = torch.Generator().manual_seed(seed)
    case = unet.CASES["unet_sd2"]
    model, text = randomize(unet.model_of(case), case["seed"], torch.float8_e4m3fn), text_part("clip_h")
    file = {}
    for name, weight in model.state_dict().items():
        if name.endswith(".weight") and weight.dim() > 1 and name.startswith(("down_blocks.0", "mid_block.attentions")):
            file |= kohya(name, "lora_unet_", *pair(generator, weight, 2), 1.0)
    file |= text_tensors(generator, text, "lora_te_", ("self_attn", "mlp"))
    pipe = sd_pipeline(model, text)
    pipe.load_lora_weights(dict(file))
    pipe.fuse_lora(lora_scale=0.8)
    expected = load_file(ROOT / "unet_sd2" / "expected.safetensors")
    results = {"output": unet_output(pipe.unet, expected), "text": hidden_of(pipe.text_encoder, "clip_h")}
    finish("sd2_kohya", file, results, seed, "0.8")


def write_sdxl(seed):
    """kohya's names over the original's blocks, two text encoders."""
    generator = torch.Generator().manual_seed(seed)
    case = unet.CASES["unet_sdxl"]
    model = randomize(unet.model_of(case), case["seed"], torch.float8_e4m3fn)
    text, text_2 = text_part("clip_l"), text_part("clip_g")
    places = unet.stems(case)
    file = {}
    for name, weight in model.state_dict().items():
        if name.endswith(".weight") and ".attentions." in name and weight.dim() > 1:
            file |= kohya(unet.original_name(name, places), "lora_unet_", *pair(generator, weight, 2), 2.0)
    changed = {}
    for key, tensor in file.items():
        stem, role = key.split(".", 1)
        changed.setdefault(stem, {})[role] = tensor
    state = model.state_dict()
    for name in state:
        stem = "lora_unet_" + unet.original_name(name, places).removesuffix(".weight").replace(".", "_")
        if name.endswith(".weight") and stem in changed:
            part = changed[stem]
            product = part["lora_up.weight"].float().flatten(1) @ part["lora_down.weight"].float().flatten(1)
            state[name] = state[name] + 1.5 * part["alpha"] / 2 * product.view_as(state[name])
    model.load_state_dict(state)
    texts = text_tensors(generator, text, "lora_te1_", ("self_attn", "mlp"))
    texts |= text_tensors(generator, text_2, "lora_te2_", ("self_attn", "mlp"))
    pipe = xl_pipeline(model, text, text_2)
    pipe.load_lora_weights(dict(texts))
    pipe.fuse_lora(components=["text_encoder", "text_encoder_2"], lora_scale=1.5)
    expected = load_file(ROOT / "unet_sdxl" / "expected.safetensors")
    results = {"output": unet_output(pipe.unet, expected), "text": hidden_of(pipe.text_encoder, "clip_l"),
               "text_2": hidden_of(pipe.text_encoder_2, "clip_g")}
    finish("sdxl_kohya", file | texts, results, seed, "1.5")


def flux_output(model, expected, case):
    height, width = case["size"]
    with torch.no_grad():
        tokens = model(
            FluxPipeline._pack_latents(expected["x"], 2, flux.LATENT, height, width),
            encoder_hidden_states=expected["context"], pooled_projections=expected["vector"],
            timestep=expected["timestep"], guidance=expected.get("guidance"),
            img_ids=FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32),
            txt_ids=torch.zeros(flux.TOKENS, 3)).sample
    return flux.unpacked(tokens, height, width)


def write_flux_diffusers(seed):
    """PEFT's names: parts of the original's joined matrices; alpha in the metadata."""
    generator = torch.Generator().manual_seed(seed)
    case = flux.CASES["flux_dev"]
    model = randomize(flux.model_of(case), case["seed"], torch.float8_e4m3fn)
    keep = ("attn.to_q", "attn.to_v", "attn.add_k_proj", "attn.to_out.0", "proj_mlp", "ff.net.0.proj", "norm_out.linear",
            "proj_out", "norm1.linear", "x_embedder")
    file = {}
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if name.endswith(".weight") and stem.endswith(keep):
            up, down = pair(generator, weight, 2)
            file |= {f"transformer.{stem}.lora_A.weight": down.half(), f"transformer.{stem}.lora_B.weight": up.half()}
    config = {"transformer.r": 2, "transformer.lora_alpha": 3,
              "transformer.target_modules": sorted({k.split(".lora_")[0].removeprefix("transformer.") for k in file})}
    state = model.state_dict()
    for stem in config["transformer.target_modules"]:
        up, down = (file[f"transformer.{stem}.lora_{leaf}.weight"].float() for leaf in ("B", "A"))
        state[stem + ".weight"] = state[stem + ".weight"] + 0.75 * 3 / 2 * up @ down
    model.load_state_dict(state)
    reference = randomize(flux.model_of(case), case["seed"], torch.float8_e4m3fn)
    reference.load_lora_adapter(dict(file), prefix="transformer",
                                network_alphas={f"{k.split('.lora_')[0]}.alpha": 3.0 for k in file if "lora_A" in k})
    reference.fuse_lora(lora_scale=0.75)
    expected = load_file(ROOT / "flux_dev" / "expected.safetensors")
    output = flux_output(reference, expected, case)
    assert torch.allclose(output, flux_output(model, expected, case), atol=1e-5)
    finish("flux_diffusers", file, {"output": output}, seed, "0.75",
           {"lora_adapter_metadata": json.dumps(config)})


def write_flux_original(name, seed, modules):
    """Products added to the original's joined tensors, given back to diffusers by names.json."""
    generator = torch.Generator().manual_seed(seed)
    case = flux.CASES["flux_dev"]
    model = randomize(flux.model_of(case), case["seed"], torch.float8_e4m3fn)
    state = model.state_dict()
    weights, names = flux.original(case, state)
    file = modules(generator, weights)
    for key, place in names.items():
        part = weights[place["from"]]
        runs = [part[first:first + count] for first, count in place.get("rows", [])]
        state[key] = (torch.cat(runs) if runs else part).reshape(place["shape"])
    model.load_state_dict(state)
    expected = load_file(ROOT / "flux_dev" / "expected.safetensors")
    finish(name, file, {"output": flux_output(model, expected, case)}, seed, "1")


def kohya_modules(generator, weights):
    file = {}
    for name in list(weights):
        if name.endswith(".weight") and name.split(".")[0] in ("double_blocks", "single_blocks"):
            up, down = pair(generator, weights[name], 2)
            file |= kohya(name, "lora_unet_", up, down, 1.0)
            weights[name] = weights[name] + 0.5 * up @ down
    return file


def xlabs_modules(generator, weights):
    hidden = weights["img_in.weight"].shape[0]
    parts = {"double_blocks": {"qkv_lora1": "img_attn.qkv", "qkv_lora2": "txt_attn.qkv", "proj_lora1": "img_attn.proj",
                               "proj_lora2": "txt_attn.proj"},
             "single_blocks": {"qkv_lora": "linear1", "proj_lora": "linear2"}}
    file = {}
    for kind, modules in parts.items():
        for block in (0, 1):
            for module, place in modules.items():
                name = f"{kind}.{block}.{place}.weight"
                rows = 3 * hidden if module == "qkv_lora" else len(weights[name])
                up, down = pair(generator, weights[name][:rows], 2)
                stem = f"{kind}.{block}.processor.{module}"
                file |= {f"{stem}.up.weight": up.half(), f"{stem}.down.weight": down.half()}
                weights[name] = weights[name].clone()
                weights[name][:rows] += up @ down
    return file


def control_modules(generator, weights):
    """As the control LoRAs of Black Forest Labs: bare names, biases of the products, whole norms."""
    file = {}
    for name in list(weights):
        stem, leaf = name.rsplit(".", 1)
        if "_blocks.0." not in name:
            continue
        if leaf == "weight":
            up, down = pair(generator, weights[name], 2)
            bias = draw(generator, len(up))
            file |= {f"{stem}.lora_B.weight": up.half(), f"{stem}.lora_A.weight": down.half(),
                     f"{stem}.lora_B.bias": bias.half()}
            weights[name] = weights[name] + up @ down
            weights[stem + ".bias"] = weights[stem + ".bias"] + bias
        elif leaf == "scale":
            weights[name] = half(1 + draw(generator, len(weights[name])))
            file[name] = weights[name].half()
    return file


def finish(name, file, results, seed, strength, more=None):
    save_as(name, file, (more or {}) | {"about": "a LoRA for a tiny model"})
    save_as(f"{name}_expected", results, metadata(seed, "float32", f"drawn with {name}") | {"strength": strength})


def main():
    write_kinds(81)
    write_sd1(82)
    write_sdxl(83)
    write_flux_diffusers(84)
    write_flux_original("flux_kohya", 85, kohya_modules)
    write_flux_original("flux_xlabs", 86, xlabs_modules)
    write_flux_original("flux_control", 87, control_modules)
    write_sd2(88)


if __name__ == "__main__":
    main()
