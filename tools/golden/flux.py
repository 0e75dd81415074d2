"""Goldens of the transformer of FLUX.1 dev, schnell and Fill, in tiny.

Reference: diffusers' FluxTransformer2DModel. The weights are stored under the names of the original release,
which joins some of diffusers' tensors; names.json says where each of those lies in it. Channels turn by
position in the published shares of a head, 1/8, 7/16 and 7/16, which takes heads of 32. After a double block
the states of both streams are kept, after a single block those of text and image tokens joined. The two batch
elements have different time steps, guidance, prompts and pooled states.
"""

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from common import Recorder, metadata, randomize, stored, write
from vae import write_names

HEAD = 32
CASES = {
    "flux_dev": dict(seed=71, heads=2, blocks=(2, 2), size=(8, 6), guidance=(3.5, 1.5)),
    "flux_schnell": dict(seed=72, heads=1, blocks=(1, 1), size=(4, 6)),
    "flux_fill": dict(seed=73, heads=1, blocks=(1, 2), size=(6, 4), channels=96, guidance=(30.0, 4.0)),
}
LATENT = 16
CONTEXT, POOLED, TOKENS = 24, 20, 5

WHOLE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
for _from, _to in {"timestep": "time_in", "text": "vector_in", "guidance": "guidance_in"}.items():
    WHOLE[f"time_text_embed.{_from}_embedder.linear_1"] = f"{_to}.in_layer"
    WHOLE[f"time_text_embed.{_from}_embedder.linear_2"] = f"{_to}.out_layer"
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
JOINED_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
JOINED_SINGLE = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def model_of(case):
    return FluxTransformer2DModel(
        in_channels=4 * case.get("channels", LATENT),
        out_channels=4 * LATENT,
        num_layers=case["blocks"][0],
        num_single_layers=case["blocks"][1],
        attention_head_dim=HEAD,
        num_attention_heads=case["heads"],
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds="guidance" in case,
        axes_dims_rope=(HEAD // 8, 7 * HEAD // 16, 7 * HEAD // 16),
    )


def modules(case):
    """Modules and lone tensors of the original, and those of diffusers joined in them."""
    result = {place: (module,) for module, place in WHOLE.items()}
    for kind, count, whole, joined in (("", case["blocks"][0], DOUBLE, JOINED_DOUBLE),
                                       ("single_", case["blocks"][1], SINGLE, JOINED_SINGLE)):
        for i in range(count):
            foreign, own = f"{kind}transformer_blocks.{i}.", f"{kind or 'double_'}blocks.{i}."
            result |= {own + place: (foreign + module,) for module, place in whole.items()}
            result |= {own + place: tuple(foreign + m for m in parts) for place, parts in joined.items()}
    return result


def original(case, state):
    """The weights under the original's names, and for each name of diffusers where it lies there."""
    weights, names = {}, {}
    for place, parts in modules(case).items():
        for leaf in ("", ".weight", ".bias"):
            tensors = {part + leaf: state[part + leaf] for part in parts if part + leaf in state}
            if not tensors:
                continue
            name, first = place + leaf, 0
            weights[name] = torch.cat(list(tensors.values()))
            for key, tensor in tensors.items():
                names[key] = {"from": name, "shape": list(tensor.shape)}
                if len(tensors) > 1:
                    names[key]["rows"] = [[first, len(tensor)]]
                first += len(tensor)
            if parts == ("norm_out.linear",):  # scale, shift: the other way round in the original
                half = first // 2
                names[parts[0] + leaf]["rows"] = [[half, half], [0, half]]
                weights[name] = weights[name].roll(half, 0)
    assert names.keys() == state.keys()
    return weights, names


def unpacked(tokens, height, width):
    x = tokens.unflatten(2, (LATENT, 2, 2)).unflatten(1, (height // 2, width // 2))
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), LATENT, height, width)


def main():
    for name, case in CASES.items():
        model = randomize(model_of(case), case["seed"], torch.float8_e4m3fn)
        weights, names = original(case, model.state_dict())
        about = metadata(case["seed"], "float8_e4m3fn", f"weights of a tiny FLUX.1 transformer ({name})")
        write(name, "model", stored(weights, torch.float8_e4m3fn), about)
        write_names(name, names)

        generator = torch.Generator().manual_seed(case["seed"])
        draw = lambda *shape: torch.randn(shape, generator=generator)
        height, width = case["size"]
        channels = case.get("channels", LATENT)
        expected = {"x": draw(2, channels, height, width), "context": draw(2, TOKENS, CONTEXT),
                    "vector": draw(2, POOLED), "timestep": torch.tensor([0.96, 0.21])}
        if "guidance" in case:
            expected["guidance"] = torch.tensor(case["guidance"])
        double = {f"double_blocks.{i}": block for i, block in enumerate(model.transformer_blocks)}
        single = {f"single_blocks.{i}": block for i, block in enumerate(model.single_transformer_blocks)}
        text, image = Recorder(double), {}
        for place, block in double.items():
            block.register_forward_hook(lambda _m, _i, out, place=place: image.update({place: out[1].clone()}))
        joined = {}
        for place, block in single.items():
            block.register_forward_hook(lambda _m, _i, out, place=place: joined.update({place: torch.cat(out, 1)}))
        with torch.no_grad():
            tokens = model(
                FluxPipeline._pack_latents(expected["x"], 2, channels, height, width),
                encoder_hidden_states=expected["context"], pooled_projections=expected["vector"],
                timestep=expected["timestep"], guidance=expected.get("guidance"),
                img_ids=FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32),
                txt_ids=torch.zeros(TOKENS, 3)).sample
        expected["output"] = unpacked(tokens, height, width)
        expected |= {f"{place}.txt": states for place, states in text.outputs.items()}
        expected |= {f"{place}.img": states for place, states in image.items()} | joined
        write(name, "expected", expected,
              metadata(case["seed"], "float32", f"outputs of a tiny FLUX.1 transformer ({name})"))


if __name__ == "__main__":
    main()
