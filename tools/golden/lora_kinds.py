"""Goldens of LoRAs: every kind of change to single weights, for lora.py.

`../lora/kinds` holds base weights, the tensors a trainer would have written for them, and the changed weights.
Reference: LyCORIS' modules and, for what it trains otherwise, PEFT's; layouts of other programs and of releases
that do not run beside these are written out here, each with its source. Names that begin with peft_ are of files
PEFT wrote; `config/<name>` in the metadata is the config that goes with one.
"""

import json

import peft
import torch
from peft import LoraConfig, OFTConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from common import LIMIT, ROOT, metadata

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


def save_as(name, tensors, meta):
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta | {"peft": peft.__version__})
    size = path.stat().st_size
    if size > LIMIT:
        raise ValueError(f"{path} has {size} bytes")
    print(f"{size:7} {path.name}")


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


def peft_dora_conv(generator, out, cin):
    """PEFT's DoRA of kernels, with a magnitude [1, out, 1, 1]."""
    base = base_of(dict(conv=(out, cin, 2)), generator)
    before = base.weight.detach().clone()
    model = get_peft_model(nn.Sequential(base), LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True,
                                                           target_modules=["0"]))
    layer = model.base_model.model[0]
    with torch.no_grad():
        for part in (layer.lora_A["default"], layer.lora_B["default"]):
            part.weight.copy_(draw(generator, *part.weight.shape))
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.copy_(half(magnitude * (1 + 0.2 * draw(generator, *magnitude.shape))))
        file = {k.removeprefix("base_model.model.0."): v.detach().clone()
                for k, v in get_peft_model_state_dict(model).items()}
        file["alpha"] = torch.tensor(ALPHA)
        merged = model.merge_and_unload()[0].weight.detach().clone()
    return before, file, merged


def first_oft(generator, shape, rescale=None):
    """LyCORIS 2.0's: the blocks themselves, after Cayley and with the factors in them."""
    base = base_of(shape, generator).weight.detach()
    square = draw(generator, base.shape[0] // 4, 4, 4)
    skew, one = square - square.mT, torch.eye(4)
    turn = half((one + skew) @ torch.linalg.inv(one - skew) * half(1 + draw(generator, len(skew), 4, 1)))
    turned = torch.einsum("knm,kn...->km...", turn, base.unflatten(0, (-1, 4))).reshape(base.shape)
    file = {"oft_diag": turn, "alpha": torch.tensor(ALPHA)}
    if rescale:  # AUTOMATIC1111's extensions-builtin/Lora reads one beside them
        file["rescale"] = half(1 + draw(generator, len(base), *[1] * (base.dim() - 1)))
        turned = turned * file["rescale"]
    return base, file, turned


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
    cases["peft_dora_conv"] = peft_dora_conv(generator, 6, 4)
    cases["peft_dora_conv_square"] = peft_dora_conv(generator, 4, 4)
    cases["oft_first"] = first_oft(generator, LINEAR)
    cases["oft_first_conv"] = first_oft(generator, dict(conv=(8, 4, 2)), rescale=True)
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
