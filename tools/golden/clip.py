"""Goldens of the text encoders: CLIP-L as transformers names it, OpenCLIP H and G as open_clip names them.

Reference: transformers' CLIPTextModelWithProjection. The three tiny encoders differ where the engine's
paths do: clip_l has one head and quick_gelu; clip_h two heads of 64 and fp8 weights; clip_g a projection
that is not square.
"""

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from common import Recorder, metadata, randomize, stored, write

VOCABULARY = 61  # the end token is the last one, as in the real vocabulary
POSITIONS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 40, 60, 73, 74, 75, 76]  # those whose hidden states are kept
CASES = {
    "clip_l": dict(seed=11, act="quick_gelu", width=32, mlp=64, layers=2, projection=32, pad=VOCABULARY - 1),
    "clip_h": dict(seed=12, act="gelu", width=128, mlp=64, layers=2, projection=16, pad=0, fp8=True),
    "clip_g": dict(seed=13, act="gelu", width=32, mlp=64, layers=2, projection=48, pad=0),
}


def model_of(case):
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=case["width"],
        intermediate_size=case["mlp"],
        num_hidden_layers=case["layers"],
        num_attention_heads=max(1, case["width"] // 64),
        projection_dim=case["projection"],
        hidden_act=case["act"],
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
        attn_implementation="eager",
    )
    return CLIPTextModelWithProjection(config)


def chunks(pad, seed):
    """Two chunks of 77 ids: one short, one full."""
    generator = torch.Generator().manual_seed(seed)
    start, end = VOCABULARY - 2, VOCABULARY - 1
    words = torch.randint(1, start, (80,), generator=generator).tolist()
    short = [start, *words[:5], end]
    full = [start, *words[5:80], end]
    return torch.tensor([short + [pad] * (77 - len(short)), full])


def to_open_clip(weights):
    """transformers' names to open_clip's: q, k and v joined, the projection transposed."""
    result = {
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": weights["text_model.final_layer_norm.weight"],
        "ln_final.bias": weights["text_model.final_layer_norm.bias"],
        "text_projection": weights["text_projection.weight"].T,
    }
    plain = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    layer = 0
    while f"text_model.encoder.layers.{layer}.layer_norm1.weight" in weights:
        source, target = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            parts = [weights[f"{source}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            result[f"{target}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for new, old in plain.items():
                result[f"{target}.{new}.{leaf}"] = weights[f"{source}.{old}.{leaf}"]
        layer += 1
    return result


def main():
    for name, case in CASES.items():
        matrices = torch.float8_e4m3fn if case.get("fp8") else torch.float16
        model = randomize(model_of(case), case["seed"], matrices)
        weights = {k: v for k, v in model.state_dict().items() if "position_ids" not in k}
        if name == "clip_l":
            del weights["text_projection.weight"]  # SD 1.x files have none
            extra = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        else:
            weights = to_open_clip(weights)
            extra = {"logit_scale": torch.tensor(4.605)}
        file = {**stored(weights, matrices), **extra}
        dtype = str(matrices).removeprefix("torch.")
        write(name, "model", file, metadata(case["seed"], dtype, f"weights of a tiny {name}"))

        tokens = chunks(case["pad"], case["seed"])
        layers = {f"layer.{i}": layer for i, layer in enumerate(model.text_model.encoder.layers)}
        recorder = Recorder({"embedded": model.text_model.embeddings, **layers})
        with torch.no_grad():
            hidden = model.text_model(input_ids=tokens)
            projected = model(input_ids=tokens).text_embeds
            penultimate = recorder.outputs[f"layer.{case['layers'] - 2}"]
            states = {
                **recorder.outputs,
                "last.normed": hidden.last_hidden_state,
                "penultimate.normed": model.text_model.final_layer_norm(penultimate),
            }
            expected = {
                "tokens": tokens.to(torch.int32),
                "positions": torch.tensor(POSITIONS, dtype=torch.int32),
                **{name: state[:, POSITIONS] for name, state in states.items()},
                "pooled": hidden.pooler_output,
                "projected": projected,
            }
        write(name, "expected", expected, metadata(case["seed"], "float32", f"outputs of a tiny {name}"))


if __name__ == "__main__":
    main()
