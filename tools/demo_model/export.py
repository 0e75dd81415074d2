"""Writes the trained parts as one fp16 safetensors file with the key layout of a single-file SD 1.x checkpoint."""
import argparse
import json
import struct

import numpy as np
import torch

import model
from train_text import Words

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.",
            "text": "cond_stage_model.transformer.text_model."}


def whole_table(rows, used):
    """The token table of all of CLIP's vocabulary: used tokens' rows, the unknown word's row everywhere else."""
    table = rows[:1].repeat(model.TEXT["vocab"], 1)
    table[torch.tensor(used)] = rows[1:]
    return table


def gather(vae_path, unet_path):
    """All tensors by their final names, fp32."""
    vae = torch.load(vae_path, weights_only=True)["average"]
    state = torch.load(unet_path, weights_only=True)
    out = {PREFIXES["vae"] + k: v for k, v in vae.items()}
    for key, value in state["average"].items():
        part, name = key.split(".", 1)
        if name == "embeddings.token_embedding.weight":
            value = whole_table(value, state["words"])
        out[PREFIXES[part] + name] = value
    return out, state["words"]


def write_safetensors(path, tensors, metadata):
    """Writes fp16 tensors, sorted by name, header padded to 8 bytes."""
    header, blobs, at = {"__metadata__": metadata}, [], 0
    for name in sorted(tensors):
        data = tensors[name].detach().contiguous().half().numpy()
        if not np.isfinite(data).all():
            raise ValueError(f"{name} does not fit fp16")
        header[name] = {"dtype": "F16", "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
        blobs.append(data.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return 8 + len(text) + at


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--unet", required=True)
    parser.add_argument("--vocab", required=True, help="open_clip_torch wheel or its bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--out", required=True)
    parser.add_argument("--size", type=int, required=True, help="picture size it was trained at")
    args = parser.parse_args()
    tensors, used = gather(args.vae, args.unet)
    if used != Words(args.vocab).used:
        raise SystemExit("the checkpoint was trained on other captions than captions.py makes now")
    size = write_safetensors(args.out, tensors, {
        "format": "pt", "modelspec.title": "Atelier demo model", "modelspec.license": "Apache-2.0",
        "modelspec.resolution": f"{args.size}x{args.size}", "modelspec.prediction_type": "epsilon",
        "modelspec.description": "Coloured shapes; trained on pictures drawn by tools/demo_model"})
    print(f"{args.out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} parameters, {size} bytes")


if __name__ == "__main__":
    main()
