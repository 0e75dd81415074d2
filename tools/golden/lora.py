"""Goldens of LoRAs: every kind of change to single weights, and tiny models drawn with one.

`../lora/kinds` holds base weights, the tensors a trainer would have written for them, and the changed weights.
Reference: LyCORIS' modules and, for what it trains otherwise, PEFT's; layouts of other programs and of releases
that do not run beside these are written out here, each with its source. Names that begin with peft_ are of files
PEFT wrote; `config/<name>` in the metadata is the config that goes with one.
The other files hold LoRAs of the tiny models of unet.py, flux.py and clip.py (run these first) and what the
changed models compute. Reference: diffusers' load_lora_weights and fuse_lora; for UNets and transformers of
LoRAs under the original's names, which diffusers takes for the released sizes alone, the products are added to
the original's tensors here.
"""

import json

import peft
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, OFTConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

import clip
import flux
import unet
from common import LIMIT, ROOT, metadata, randomize

from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

OUT = ROOT.parent / "lora"
RANK, ALPHA = 4, 3.0


def half(tensor):
    return tensor.detach().half().float()


def draw(generator, *shape):
    return half(0.3 * torch.randn(shape, generator=generator))


# ---- single weights

LINEAR, KERNEL = dict(linear=(12, 8)), dict(conv=(8, 6, 3))
KINDS = {
    "lora": (LoConModule, LINEAR, {}),
    "lora_rs": (LoConModule, LINEAR, dict(rs_lora=True)),
    "locon": (LoConModule, KERNEL, {}),
    "locon_tucker": (LoConModule, KERNEL, dict(use_tucker=True)),
    "dora_out": (LoConModule, LINEAR, dict(weight_decompose=True)),
    "dora_in": (LoConModule, LINEAR, dict(weight_decompose=True, wd_on_out=False)),
    "dora_conv_out": (LoConModule, KERNEL, dict(weight_decompose=True)),
    "dora_conv_in": (LoConModule, KERNEL, dict(weight_decompose=True, wd_on_out=False)),
    "loha": (LohaModule, LINEAR, {}),
    "loha_conv": (LohaModule, KERNEL, {}),
    "loha_tucker": (LohaModule, KERNEL, dict(use_tucker=True)),
    "loha_dora": (LohaModule, LINEAR, dict(weight_decompose=True)),
    "lokr_full": (LokrModule, LINEAR, dict(full_matrix=True)),
    "lokr": (LokrModule, dict(linear=(24, 20)), dict(lora_dim=2, factor=2)),
    "lokr_both": (LokrModule, dict(linear=(36, 36)), dict(lora_dim=2, factor=6, decompose_both=True)),
    "lokr_conv": (LokrModule, dict(conv=(12, 12, 3)), dict(lora_dim=2, factor=2)),
    "lokr_tucker": (LokrModule, dict(conv=(12, 12, 3)), dict(lora_dim=2, factor=2, use_tucker=True)),
    "glora": (GLoRAModule, LINEAR, {}),
    "glora_conv": (GLoRAModule, KERNEL, {}),
    "full": (FullModule, KERNEL, {}),
    "oft": (DiagOFTModule, LINEAR, {}),
    "oft_conv": (DiagOFTModule, KERNEL, dict(rescaled=True)),
    "oft_constraint": (DiagOFTModule, LINEAR, dict(constraint=0.05)),
    "boft": (ButterflyOFTModule, dict(linear=(16, 8)), dict(lora_dim=4)),
    "boft_conv": (ButterflyOFTModule, dict(conv=(16, 4, 3)), dict(lora_dim=2, rescaled=True)),
}


def base_of(shape, generator):
    if "linear" in shape:
        module = nn.Linear(shape["linear"][1], shape["linear"][0], bias=False)
    else:
        out, cin, size = shape["conv"]
        module = nn.Conv2d(cin, out, size, padding=size // 2, bias=False)
    module.weight.data = draw(generator, *module.weight.shape)
    return module


def lycoris_case(kind, shape, options, generator):
    base = base_of(shape, generator)
    before = base.weight.detach().clone()
    options = {"lora_dim": RANK, "alpha": ALPHA, **options}
    module = kind("m", base, multiplier=1.0, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("dora_scale"):
                parameter.copy_(half(parameter * (1 + 0.2 * draw(generator, *parameter.shape))))
            elif name.endswith("rescale"):
                parameter.copy_(half(1 + 0.2 * draw(generator, *parameter.shape)))
            elif not name.startswith("org_"):
                parameter.copy_(draw(generator, *parameter.shape))
        if kind in (LohaModule, LokrModule):  # as their forward(); get_merged_weight() scales twice
            merged = before + module.get_weight(before.shape) * module.scalar
            merged = module.apply_weight_decompose(merged) if options.get("weight_decompose") else merged
        else:
            merged = module.get_merged_weight(multiplier=1.0, shape=before.shape)[0]
        state = {k: v for k, v in module.state_dict().items() if k != "scalar"}
        if hasattr(module, "custom_state_dict") and module.custom_state_dict() is not None:
            state = module.custom_state_dict()
        if kind is FullModule:
            state = {"diff": half(state["diff"]) if "diff" in state else half(merged - before)}
            merged = before + state["diff"]
    if options.get("rs_lora"):
        state["alpha"] = torch.tensor(ALPHA * RANK / RANK**0.5)  # as a plain LoRA of this scale
    return before, {k: v.detach().clone() for k, v in state.items()}, merged.detach().clone()


def first_glora(generator):
    """The layout of LyCORIS 1.8: both products the other way round."""
    weight, a1, a2 = draw(generator, 12, 8), draw(generator, RANK, 8), draw(generator, 8, RANK)
    b1, b2 = draw(generator, RANK, 8), draw(generator, 12, RANK)
    merged = weight + ALPHA / RANK * (b2 @ b1 + weight @ a2 @ a1)
    state = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(ALPHA)}
    return weight, state, merged


def peft_dora(generator):
    """PEFT's DoRA, with its names and a magnitude without a second dimension."""
    base = base_of(LINEAR, generator)
    before = base.weight.detach().clone()
    model = get_peft_model(nn.Sequential(base), LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True,
                                                           target_modules=["0"]))
    layer = model.base_model.model[0]
    with torch.no_grad():
        for part in (layer.lora_A["default"], layer.lora_B["default"], layer.lora_magnitude_vector["default"]):
            near = 1 + 0.2 * draw(generator, *part.weight.shape)
            part.weight.copy_(half(part.weight * near) if part.weight.dim() == 1 else draw(generator, *part.weight.shape))
        state = {"lora_A.weight": layer.lora_A["default"].weight, "lora_B.weight": layer.lora_B["default"].weight,
                 "lora_magnitude_vector": layer.lora_magnitude_vector["default"].weight,
                 "alpha": torch.tensor(ALPHA)}
        state = {k: v.detach().clone() for k, v in state.items()}
        merged = model.merge_and_unload()[0].weight.detach().clone()
    return before, state, merged


def peft_oft(generator, shape, **options):
    """PEFT's OFT: blocks of the input turned, as the triangles of skew-symmetric matrices."""
    base = base_of(shape, generator)
    before = base.weight.detach().clone()
    model = get_peft_model(nn.Sequential(base), OFTConfig(target_modules=["0"], **options))
    rotation = model.base_model.model[0].oft_R["default"]
    with torch.no_grad():
        rotation.weight.copy_(draw(generator, *rotation.weight.shape))
        file = {k.removeprefix("base_model.model.0."): v.detach().clone()
                for k, v in get_peft_model_state_dict(model).items()}
        merged = model.merge_and_unload()[0].weight.detach().clone()
    return before, file, merged


def cayley(square):
    """As PEFT up to 0.15 has it: (I - S)(I + S)^-1 of the skew half of a matrix."""
    skew, one = 0.5 * (square - square.mT), torch.eye(square.shape[-1])
    return torch.block_diag(*((one - skew) @ torch.linalg.inv(one + skew)))


def first_peft_oft(generator):
    """PEFT up to 0.13, tuners/oft/layer.py: blocks of the output."""
    weight, blocks = draw(generator, 12, 8), draw(generator, 3, 4, 4)
    return weight, {"oft_r": blocks}, (weight.T @ cayley(blocks)).T


def second_peft_oft(generator):
    """PEFT 0.14 and 0.15: blocks of the input, and a factor for each row."""
    weight, blocks, factors = draw(generator, 12, 8), draw(generator, 2, 4, 4), half(1 + draw(generator, 12, 1))
    return weight, {"oft_r": blocks, "oft_s": factors}, (cayley(blocks) @ weight.T).T * factors


def onetrainer_oft(generator, shape, size, scaled=False):
    """Nerogar/OneTrainer modules/module/: PEFT's numbers; kernels are turned the other way; perhaps scaled."""
    base = base_of(shape, generator).weight.detach()
    blocks = base[0].numel() // size
    stored = draw(generator, blocks, size * (size - 1) // 2)
    skew = torch.zeros(blocks, size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    skew[:, rows, columns] = stored / (2 * (size - 1) ** 0.5) if scaled else stored
    skew = skew - skew.mT
    turn = torch.eye(size) + 2 * skew + 2 * skew @ skew + 2 * skew @ skew @ skew + skew @ skew @ skew @ skew
    turn = torch.block_diag(*(turn if base.dim() > 2 else turn.mT))
    file = {"oft_R.weight": stored} | ({"oft_R.scaled_oft": torch.tensor(True)} if scaled else {})
    return base, file, (base.flatten(1) @ turn).view(base.shape)


def write_kinds(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    cases = {name: lycoris_case(kind, shape, options, generator) for name, (kind, shape, options) in KINDS.items()}
    cases["glora_first"] = first_glora(generator)
    cases["dora_peft"] = peft_dora(generator)
    exact = dict(oft_block_size=4, use_cayley_neumann=False)
    cases["peft_oft"] = peft_oft(generator, LINEAR, oft_block_size=4)
    cases["peft_oft_shared"] = peft_oft(generator, LINEAR, oft_block_size=4, block_share=True)
    cases["peft_oft_kernel"] = peft_oft(generator, dict(conv=(8, 4, 3)), oft_block_size=6)
    cases["peft_oft_exact"] = peft_oft(generator, LINEAR, **exact)
    cases["peft_oft_terms"] = peft_oft(generator, LINEAR, oft_block_size=4, num_cayley_neumann_terms=7)
    cases["peft_oft_first"] = first_peft_oft(generator)
    cases["peft_oft_second"] = second_peft_oft(generator)
    cases["onetrainer_oft"] = onetrainer_oft(generator, LINEAR, 4)
    cases["onetrainer_oft_kernel"] = onetrainer_oft(generator, dict(conv=(8, 4, 3)), 6)
    cases["onetrainer_oft_scaled"] = onetrainer_oft(generator, LINEAR, 4, scaled=True)
    configs = {"peft_oft_exact": exact, "peft_oft_terms": dict(num_cayley_neumann_terms=7)}
    files = {}
    for name, (before, state, merged) in cases.items():
        files[f"base/{name}"] = before
        files |= {f"file/{name}/{role}": tensor.contiguous() for role, tensor in state.items()}
        files[f"want/{name}"] = merged
    stored = {k: v.half() if k.startswith(("base/", "file/")) and torch.equal(v.half().float(), v.float()) else v
              for k, v in files.items()}
    configs = {f"config/{name}": json.dumps(config) for name, config in configs.items()}
    save_as("kinds", stored, metadata(seed, "float32", "changes to single weights") | configs)


# ---- tiny models

def save_as(name, tensors, meta):
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta | {"peft": peft.__version__})
    size = path.stat().st_size
    if size > LIMIT:
        raise ValueError(f"{path} has {size} bytes")
    print(f"{size:7} {path.name}")


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


if __name__ == "__main__":
    main()
