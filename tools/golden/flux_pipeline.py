"""Goldens of whole FLUX.1 runs: dev, dev with a negative prompt, Fill, Canny or Depth, and Kontext, in tiny.

Reference: diffusers' FluxPipeline, FluxFillPipeline, FluxControlPipeline and FluxKontextPipeline with
transformers' encoders. The parts are those of clip.py, t5.py, flux.py and vae.py (run these first, and
t5_tokenizer.py) but for the tensors stored here: those of the transformer that take the encoders' widths, those
of the autoencoder that take 16 channels, and the inputs of the variants. Both vocabularies repeat their tiny one:
row i is row i % 61. Pictures are encoded to the mean, for the autoencoder's variance is made to vanish.
"""

import math

import torch
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlPipeline, FluxFillPipeline,
                       FluxKontextPipeline, FluxPipeline)
from safetensors.torch import load_file
from tokenizers import Tokenizer

import clip
import flux
import t5
import vae
from common import ROOT, metadata, write
from flux import LATENT
from pipeline import text_model, token_ids

SEED, NOISE_SEED = 81, 82
PROMPT, NEGATIVE = "a fox in front of a mountain, watercolour", "soft focus"
LONG = "a knight in shining armour, wearing a blue coat, " * 14  # above 256 tokens
WIDTH, HEIGHT, STEPS, BATCH = 64, 48, 4, 2  # steps that divide the 10000 noise levels of a scheduler
PIECES = 704  # of the tokenizer
T5_LENGTH = 256
SCALING = dict(scaling_factor=0.3611, shift_factor=0.1159)


def draw(generator, *shape, gain=1.0):
    """Normal numbers of unit gain that fp16 holds."""
    return (torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))).half().float()


def shards(folder, name):
    files = sorted((ROOT / folder).glob(f"{name}-*.safetensors")) or [ROOT / folder / f"{name}.safetensors"]
    return {key: tensor.float() for file in files for key, tensor in load_file(file).items()}


def replacements():
    """The tensors that differ from the parts' own goldens, by part."""
    generator = torch.Generator().manual_seed(SEED)
    width, hidden, inputs = 32, 2 * flux.HEAD, 4 * LATENT
    parts = {
        "flux.txt_in.weight": draw(generator, hidden, width),
        "flux.vector_in.in_layer.weight": draw(generator, hidden, width),
        "vae.decoder.conv_in.weight": draw(generator, 32, LATENT, 3, 3),
        "vae.decoder.conv_in.bias": torch.zeros(32),
        "vae.encoder.conv_out.weight": draw(generator, 2 * LATENT, 32, 3, 3, gain=3),
        "vae.encoder.conv_out.bias": torch.zeros(2 * LATENT),
    }
    parts["vae.encoder.conv_out.weight"][LATENT:] = 0
    parts["vae.encoder.conv_out.bias"][LATENT:] = -30  # the logarithm of the variance
    for name, factor in (("control", 2), ("fill", 6)):
        parts[f"{name}.img_in.weight"] = draw(generator, hidden, factor * inputs)
    return parts


def chosen(parts, prefix):
    return {key.removeprefix(prefix): tensor for key, tensor in parts.items() if key.startswith(prefix)}


def transformer(parts, variant, channels):
    case = dict(flux.CASES["flux_dev"], channels=channels)
    weights = shards("flux_dev", "model") | chosen(parts, "flux.") | chosen(parts, f"{variant}.")
    context = flux.CONTEXT, flux.POOLED
    flux.CONTEXT = flux.POOLED = 32
    model = flux.model_of(case)
    flux.CONTEXT, flux.POOLED = context
    _, names = flux.original(case, model.state_dict())
    state = {}
    for key, row in names.items():
        whole = weights[row["from"]]
        runs = [whole[first:first + count] for first, count in row.get("rows", [[0, len(whole)]])]
        state[key] = torch.cat(runs).reshape(row["shape"])
    model.load_state_dict(state)
    return model.eval()


def autoencoder(parts):
    case = dict(vae.CASES["vae_kl"], channels=LATENT, quant=False)
    weights = shards("vae_kl", "model") | chosen(parts, "vae.")
    levels = len(case["widths"])
    model = AutoencoderKL(
        block_out_channels=case["widths"], down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=case["layers"], latent_channels=LATENT,
        norm_num_groups=32, use_quant_conv=False, use_post_quant_conv=False, **SCALING)
    state = {key: weights[vae.original_name(key, levels)].reshape(tensor.shape)
             for key, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def t5_model():
    weights = shards("t5", "model")
    weights["shared.weight"] = weights["shared.weight"][torch.arange(PIECES) % t5.VOCABULARY]
    config = t5.model().config
    config.vocab_size = PIECES
    model = t5.T5EncoderModel(config)
    missing, extra = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"} and not extra
    return model.eval()


def t5_ids(text):
    tokenizer = Tokenizer.from_file(str(ROOT.parent / "t5" / "tokenizer.json"))
    ids = [*tokenizer.encode(text, add_special_tokens=False).ids, 1]
    return torch.tensor([ids + [0] * (T5_LENGTH - len(ids))])


def clip_ids(text):
    """The first chunk of 77."""
    ids = token_ids(text)
    return ids if ids.shape[1] == 77 else torch.cat([ids[:, :76], ids[:, -1:]], 1)


def unpacked(tokens):
    return FluxPipeline._unpack_latents(tokens, HEIGHT, WIDTH, 8)


def pictures():
    """A picture, a mask with a hard edge, and one of another size, in bytes."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    image = torch.stack([4 * x, 5 * y, (3 * x + 7 * y) % 256]).to(torch.uint8)
    mask = ((x > 20) & (y < 30)).to(torch.uint8) * 255
    y, x = torch.meshgrid(torch.arange(64), torch.arange(32), indexing="ij")
    reference = torch.stack([8 * x, 4 * y, (5 * x * y) % 256]).to(torch.uint8)
    return image, mask, reference


def main():
    parts = replacements()
    write("tiny_flux", "parts", {key: tensor.half() for key, tensor in parts.items()},
          metadata(SEED, "float16", "what a tiny FLUX.1 has besides the parts of other goldens"))
    text, long_text, decoder = text_model(), t5_model(), autoencoder(parts)
    with torch.no_grad():
        said = {name: (long_text(input_ids=t5_ids(prompt)).last_hidden_state,
                       text(input_ids=clip_ids(prompt)).pooler_output)
                for name, prompt in (("positive", PROMPT), ("negative", NEGATIVE), ("long", LONG))}
    image, mask, reference = pictures()
    shown = {"image": image[None] / 255, "mask": mask[None, None] / 255, "reference": reference[None] / 255}

    def run(pipeline, variant, channels, *, batch=1, prompt="positive", negative=None, **more):
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
        pipe = pipeline(scheduler=scheduler, vae=decoder, text_encoder=None, tokenizer=None, text_encoder_2=None,
                        tokenizer_2=None, transformer=transformer(parts, variant, channels))
        pipe.set_progress_bar_config(disable=True)
        noise = torch.randn((batch, LATENT, HEIGHT // 8, WIDTH // 8),
                            generator=torch.Generator().manual_seed(NOISE_SEED))
        if negative:
            more |= dict(negative_prompt_embeds=said[negative][0], negative_pooled_prompt_embeds=said[negative][1])
        tokens = pipe(prompt_embeds=said[prompt][0], pooled_prompt_embeds=said[prompt][1], height=HEIGHT, width=WIDTH,
                      num_inference_steps=STEPS, num_images_per_prompt=batch, output_type="latent",
                      latents=FluxPipeline._pack_latents(noise, batch, LATENT, HEIGHT // 8, WIDTH // 8),
                      **more).images
        return unpacked(tokens)

    expected = {
        "context.positive": said["positive"][0][:, ::8],
        "context.long": said["long"][0][:, ::16],
        "length.long": torch.tensor([said["long"][0].shape[1]], dtype=torch.int32),
        "vector.positive": said["positive"][1],
        "dev": run(FluxPipeline, "dev", LATENT, batch=BATCH, guidance_scale=2.5),
        "long": run(FluxPipeline, "dev", LATENT, prompt="long", guidance_scale=3.5),
        "negative": run(FluxPipeline, "dev", LATENT, negative="negative", true_cfg_scale=2.0, guidance_scale=3.5),
        "fill": run(FluxFillPipeline, "fill", 6 * LATENT, guidance_scale=30.0, image=shown["image"],
                    mask_image=shown["mask"]),
        "control": run(FluxControlPipeline, "control", 2 * LATENT, guidance_scale=30.0,
                       control_image=2 * shown["image"] - 1),  # which it does not do to tensors itself
        "kontext": run(FluxKontextPipeline, "dev", LATENT, guidance_scale=2.5, image=shown["reference"],
                       max_area=HEIGHT * WIDTH, _auto_resize=False),
        "image": image.permute(1, 2, 0).to(torch.int32),
        "mask": mask.to(torch.int32),
        "reference": reference.permute(1, 2, 0).to(torch.int32),
    }
    with torch.no_grad():
        latent = expected["dev"][:1] / SCALING["scaling_factor"] + SCALING["shift_factor"]
        expected["decoded"] = decoder.decode(latent).sample
    about = metadata(NOISE_SEED, "float32", "whole runs of a tiny FLUX.1, sampler euler, scheduler simple")
    about |= {"prompt": PROMPT, "negative": NEGATIVE, "long": LONG, "steps": str(STEPS), "width": str(WIDTH),
              "height": str(HEIGHT)}
    write("tiny_flux", "expected", expected, about)
    for key in ("dev", "long", "negative", "fill", "control", "kontext", "decoded"):
        print(key, tuple(expected[key].shape), expected[key].std().item(), (expected[key] - expected["dev"][:1]).std().item()
              if key != "decoded" else "")


if __name__ == "__main__":
    main()
