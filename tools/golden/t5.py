"""Goldens of the T5 encoder: a tiny one of three blocks whose heads are narrower than its width.

Reference: transformers' T5EncoderModel. The file holds the names of a lone encoder; the C++ tests
rename it to llama.cpp's.
"""

import torch
from transformers import T5Config, T5EncoderModel

from common import Recorder, metadata, randomize, stored, write

SEED = 31
VOCABULARY = 61
LENGTHS = {"short": 9, "long": 160}  # the second passes the last bucket of distances
POSITIONS = [0, 1, 2, 7, 8, 31, 63, 64, 127, 128, 129, 150, 158, 159]  # of the long chunk


def model():
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    net = randomize(T5EncoderModel(config), SEED)
    with torch.no_grad():  # as strong as T5's own, so that a wrong distance shows
        table = net.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        table.copy_((table * 6).half().float())
    return net


def main():
    net = model()
    weights = {k: v for k, v in net.state_dict().items() if k != "encoder.embed_tokens.weight"}
    write("t5", "model", stored(weights, torch.float16), metadata(SEED, "float16", "weights of a tiny T5 encoder"))

    generator = torch.Generator().manual_seed(SEED)
    expected = {"long.positions": torch.tensor(POSITIONS, dtype=torch.int32)}
    recorder = Recorder({"embedded": net.encoder.embed_tokens, **{f"layer.{i}": b for i, b in enumerate(net.encoder.block)}})
    for name, length in LENGTHS.items():
        tokens = torch.randint(2, VOCABULARY, (1, length), generator=generator)
        tokens[0, -1] = 1
        tokens[0, length // 2 :: 5] = 0  # padding is seen like any token
        with torch.no_grad():
            last = net(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            normed = net.encoder.final_layer_norm(recorder.outputs["layer.1"])
        states = {**recorder.outputs, "last": last, "penultimate.normed": normed}
        keep = POSITIONS if name == "long" else list(range(length))
        expected[f"{name}.tokens"] = tokens.to(torch.int32)
        expected.update({f"{name}.{k}": v[:, keep] for k, v in states.items()})
    write("t5", "expected", expected, metadata(SEED, "float32", "outputs of a tiny T5 encoder"))


if __name__ == "__main__":
    main()
