"""Golden of a whole run: prompt, guided euler steps, decoded picture, on a tiny SD 1.x.

The text encoder and the autoencoder are those of clip.py and vae.py (run these first), so only the UNet's
weights are stored. A checkpoint is put together from the three under SD 1.x's prefixes; its vocabulary of
49408 rows repeats the tiny one: row i is row i % 61. Networks: transformers and diffusers. The sampler is
written out below from its equations (Karras et al. 2022, algorithm 2 without noise), in float32.
"""

import importlib.util
import pathlib
import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

import clip
import vae
from common import ROOT, metadata, randomize, stored, write

SEED, NOISE_SEED = 41, 42
PROMPT, NEGATIVE = "a red cube on the left of a blue sphere", "blurry"
STEPS, CFG, SIZE, BATCH = 5, 4.0, 64, 2
UNET = dict(widths=(32, 32), layers=1, attention=(True, False))
INSIDE_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_model():
    kinds = [("CrossAttn" if a else "", a) for a in UNET["attention"]]
    return UNet2DConditionModel(
        block_out_channels=UNET["widths"],
        down_block_types=tuple(f"{k}DownBlock2D" for k, _ in kinds),
        up_block_types=tuple(f"{k}UpBlock2D" for k, _ in reversed(kinds)),
        layers_per_block=UNET["layers"],
        cross_attention_dim=clip.CASES["clip_l"]["width"],
        attention_head_dim=8,
        norm_num_groups=32,
    )


def original_name(name):
    """The original release's name of a diffusers UNet tensor."""
    n, levels = UNET["layers"], len(UNET["widths"])
    stems = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    stems |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    stems |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    stems |= {"mid_block.resnets.1": "middle_block.2"}
    for i in range(levels):
        for j in range(n):
            stems[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{1 + i * (n + 1) + j}.0"
            stems[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{1 + i * (n + 1) + j}.1"
        stems[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(i + 1) * (n + 1)}.0.op"
        for j in range(n + 1):
            stems[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{i * (n + 1) + j}.0"
            stems[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{i * (n + 1) + j}.1"
        place = 2 if UNET["attention"][levels - 1 - i] else 1
        stems[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{i * (n + 1) + n}.{place}.conv"
    stem = max((s for s in stems if name.startswith(s + ".")), key=len)
    rest = name.removeprefix(stem + ".")
    if ".resnets." in stem:
        rest = re.sub(r"^\w+", lambda m: INSIDE_RESNET[m[0]], rest)
    return f"{stems[stem]}.{rest}"


def text_model():
    """clip_l with the whole vocabulary."""
    case = clip.CASES["clip_l"]
    weights = load_file(ROOT / "clip_l" / "model.safetensors")
    table = "text_model.embeddings.token_embedding.weight"
    weights[table] = weights[table][torch.arange(49408) % clip.VOCABULARY]
    del weights["text_model.embeddings.position_ids"]
    config = clip.model_of(case).config
    config.vocab_size, config.bos_token_id, config.eos_token_id = 49408, 49406, 49407
    model = clip.CLIPTextModelWithProjection(config)
    missing, extra = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    assert missing == ["text_projection.weight"] and not extra
    return model.text_model.eval()


def vae_model():
    case = vae.CASES["vae_kl"]
    model = vae.model_of(case)
    files = {}
    for shard in sorted((ROOT / "vae_kl").glob("model-*.safetensors")):
        files |= load_file(shard)
    weights = {}
    for name, tensor in model.state_dict().items():
        source = files[vae.original_name(name, len(case["widths"]))]
        weights[name] = source.float().reshape(tensor.shape)
    model.load_state_dict(weights)
    return model.eval()


def token_ids(text):
    """One chunk of 77 by the vocabulary file of open_clip: start, words, end, padding with end."""
    package = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("tokenizer", pathlib.Path(package) / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ids = [49406, *module.SimpleTokenizer().encode(text), 49407]
    return torch.tensor([ids + [49407] * (77 - len(ids))])


def table():
    """The 1000 sigmas of SD 1.x, ascending."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return ((1 - alphas) / alphas).sqrt().float()


def normal_schedule(sigmas, steps):
    """`steps` sigmas at evenly spaced times from the largest to the smallest, then 0."""
    t = torch.linspace(999, 0, steps)
    low, share = t.floor().long(), t.frac()
    high = t.ceil().long()
    return torch.cat([((1 - share) * sigmas.log()[low] + share * sigmas.log()[high]).exp(), torch.zeros(1)])


def main():
    unet = randomize(unet_model(), SEED, torch.float8_e4m3fn)
    names = {k: {"from": original_name(k), "shape": list(v.shape)} for k, v in unet.state_dict().items()}
    weights = {original_name(k): v for k, v in unet.state_dict().items()}
    about = "weights of a tiny SD 1.x UNet"
    write("tiny_sd", "unet", stored(weights, torch.float8_e4m3fn), metadata(SEED, "float8_e4m3fn", about))
    vae.write_names("tiny_sd", names)

    text, decoder, sigma_table = text_model(), vae_model(), table()
    tokens = {"positive": token_ids(PROMPT), "negative": token_ids(NEGATIVE)}
    with torch.no_grad():
        hidden = {k: text(input_ids=v).last_hidden_state for k, v in tokens.items()}
        context = torch.cat([hidden["negative"], hidden["positive"]]).repeat_interleave(BATCH, 0)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn((BATCH, 4, SIZE // 8, SIZE // 8), generator=generator)
        sigmas = normal_schedule(sigma_table, STEPS)
        x = noise * (1 + sigmas[0] ** 2).sqrt()
        trail = []
        for sigma, following in zip(sigmas, sigmas[1:]):
            time = (sigma_table.log() - sigma.log()).abs().argmin()
            scaled = torch.cat([x, x]) / (sigma**2 + 1).sqrt()
            eps = unet(scaled, time, encoder_hidden_states=context).sample
            uncond, cond = (torch.cat([x, x]) - sigma * eps).chunk(2)
            denoised = uncond + CFG * (cond - uncond)
            x = x + (following - sigma) * (x - denoised) / sigma
            trail.append(x)
        latent = x / 0.18215
        decoded = decoder.decode(latent).sample
    expected = {
        "tokens.positive": tokens["positive"].to(torch.int32),
        "tokens.negative": tokens["negative"].to(torch.int32),
        "context.positive": hidden["positive"],
        "context.negative": hidden["negative"],
        "noise": noise,
        "sigmas": sigmas,
        "steps": torch.stack(trail),
        "latent": latent,
        "decoded": decoded[:1],
    }
    meta = metadata(NOISE_SEED, "float32", "a whole run of a tiny SD 1.x, sampler euler, scheduler normal")
    meta |= {"prompt": PROMPT, "negative": NEGATIVE, "steps": str(STEPS), "cfg": str(CFG)}
    meta |= {"width": str(SIZE), "height": str(SIZE), "batch": str(BATCH), "vocabulary": str(clip.VOCABULARY)}
    write("tiny_sd", "expected", expected, meta)
    for k in ("steps", "latent", "decoded"):
        print(k, expected[k].abs().max().item(), expected[k].std().item())


if __name__ == "__main__":
    main()
