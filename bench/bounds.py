"""What the measures are meant to reach, and the table that says which of it holds.

A time, an error or a share of memory is good when it is small: the figure must be at most the bound. A
rate is good when it is large: it must be at least the bound.
"""
from typing import NamedTuple


class Bound(NamedTuple):
    name: str  # of the row; a trailing * stands for any ending
    dtype: str
    peer_name: str  # of the row
    figure: str  # the row's member that is judged: "ratio" or "ours"
    limit: float
    aim: float | None = None

    def rows(self, rows):
        fits = (lambda n: n.startswith(self.name[:-1])) if self.name.endswith("*") else (lambda n: n == self.name)
        return [r for r in rows if fits(r["name"]) and r["dtype"] == self.dtype and r["peer_name"] == self.peer_name]


EAGER, OPENVINO, ATEN = "PyTorch eager", "OpenVINO", "ATen"
MEMCPY = "memcpy"
OTHERS = ("Q4_1", "Q5_0", "Q5_1", "Q8_1", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "Q8_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS",
          "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4", "NVFP4", "NF4", "FP4",
          "NF4, nested scales", "FP4, nested scales", "E2M1, NVFP4 scales", "F8_E4M3, tiles", "F8_E4M3, MXFP8 scales",
          "I8, scales of rows", "F64", "F32", "F16", "BF16")
UNET, SMALL, VAE = "UNet SD1.5 512x512 CFG", "UNet SD1.5 256x256 CFG", "VAE decode 512x512"
ERROR = ": error against fp32"
FLOATS, ANEW, NO_LORA, MERGED = "fp16 file", ", prepared anew", "no LoRA", "merged weights"
INT8 = "Q8_0 --int8"
STREAMING = "stored weights + 2 prepared + activations"
FLUX_STEP, STRENGTH = "FLUX.1 blocks Q4_K, 1024 image tokens,", "another LoRA strength, 2 GB model"
SPELLINGS = ("", ", diffusers names")  # of LoRAs: diffusers has one for each part of a joined matrix
FLUX_RUN = "FLUX.1 512x512 Q4_K_M"
WEIGHTS = "weights in compute dtype + activations"
LARGEST = "largest part in compute dtype + activations"
BOUNDS = [
    Bound(UNET, "bf16", EAGER, "ratio", 0.50),
    Bound(UNET, "bf16", OPENVINO, "ratio", 0.75, 0.58),
    Bound(UNET, "fp32", EAGER, "ratio", 0.55),
    Bound(UNET, "fp32", OPENVINO, "ratio", 0.85, 0.68),
    Bound(SMALL, "bf16", EAGER, "ratio", 0.60),
    Bound(SMALL, "bf16", OPENVINO, "ratio", 0.80, 0.65),
    Bound(VAE, "bf16", EAGER, "ratio", 0.50),
    Bound(VAE, "bf16", OPENVINO, "ratio", 0.62, 0.45),
    Bound(VAE, "fp32", EAGER, "ratio", 0.50),
    Bound(VAE, "fp32", OPENVINO, "ratio", 0.62, 0.45),
    Bound("attention *", "bf16", ATEN, "ratio", 4, 5),
    Bound("attention *", "fp32", ATEN, "ratio", 4, 5),
    Bound(UNET + ERROR, "bf16", OPENVINO, "ratio", 1.0, 0.6),
    Bound(VAE + ERROR, "bf16", OPENVINO, "ratio", 1.2, 1.1),
    *(Bound(f"decode {name}", "bf16", MEMCPY, "ratio", 0.7, 0.9)
      for name in ("Q8_0", "Q4_0", "Q4_K", "F8_E4M3", "F8_E5M2", "F8_E4M3, one scale")),
    *(Bound(f"decode {name}", "bf16", MEMCPY, "ratio", 0.4, 0.7) for name in OTHERS),
    *(Bound("decode *", "bf16", peer, "ratio", 10, 30) for peer in ("gguf package", "torch operations")),
    *(Bound(f"{UNET} {kind}", "bf16", FLOATS, "ratio", 1.02, 1.00) for kind in ("Q8_0", "Q4_K")),
    *(Bound(f"{UNET} {kind}{ANEW}", "bf16", FLOATS, "ratio", 1.25, 1.10) for kind in ("Q8_0", "Q4_K")),
    *(Bound(f"{UNET} {kind}{ANEW}: peak memory", "bf16", STREAMING, "ratio", 1.0) for kind in ("Q8_0", "Q4_K")),
    Bound(f"{UNET} {INT8}", "bf16", FLOATS, "ratio", 0.95, 0.85),
    Bound(f"{UNET} {INT8}: difference from Q8_0", "bf16", "none", "ours", 0.05),
    *(Bound(f"FLUX.1 Q4_K, {some}{names}{ERROR}", "bf16", MERGED, "ratio", 1.1, 1.02)
      for names in SPELLINGS for some in ("1 LoRA", "4 LoRAs")),
    *(Bound(f"{FLUX_STEP} 1 LoRA{names}", "bf16", NO_LORA, "ratio", 1.03, 1.01) for names in SPELLINGS),
    *(Bound(f"{FLUX_STEP} 4 LoRAs{names}", "bf16", NO_LORA, "ratio", 1.08, 1.04) for names in SPELLINGS),
    Bound(f"{FLUX_RUN}, 2 LoRAs: step", "bf16", NO_LORA, "ratio", 1.05, 1.03),
    Bound(STRENGTH, "bf16", "none", "ours", 1.5, 0.5),
    Bound("quantise 2 GB fp16 to Q4_K", "fp16", "reading and writing the bytes", "ratio", 6, 3),
    Bound("whole run 512x512: peak memory", "bf16", WEIGHTS, "ratio", 1.35, 1.2),
    Bound("whole run 512x512: start to first step", "bf16", "none", "ours", 3, 1.5),
    Bound("whole run 512x512: outside denoise() per step", "bf16", "whole step", "ratio", 0.02, 0.005),
]


def judge(row, bound):
    """"holds, aim reached", "holds" or "missed"."""
    sign = -1 if row["better"] == "more" else 1
    reaches = lambda wanted: sign * row[bound.figure] <= sign * wanted
    if bound.aim is not None and reaches(bound.aim):
        return "holds, aim reached"
    return "holds" if reaches(bound.limit) else "missed"


def number(value):
    return f"{value:.4g}" if value >= 0.001 else f"{value:.1e}"


def print_verdicts(rows, unmeasured=True):
    """One line per bound and row; bounds without a row are named as not measured, if that is wanted."""
    print(f"\n{'bound':53} {'type':5} {'figure':>8} {'bound':>8} {'aim':>9}  verdict")
    for bound in BOUNDS:
        found = bound.rows(rows)
        if not found and unmeasured:
            print(f"{bound.name:53} {bound.dtype:5} {'-':>8} {number(bound.limit):>8} {'':9}  not measured"
                  f" (against {bound.peer_name})")
        for row in found:
            sign = ">=" if row["better"] == "more" else "<="
            aim = f"{sign} {number(bound.aim)}" if bound.aim is not None else ""
            against = "" if bound.figure == "ours" else f", against {bound.peer_name}"
            print(f"{row['name']:53} {row['dtype']:5} {number(row[bound.figure]):>8} "
                  f"{sign + ' ' + number(bound.limit):>8} {aim:>9}  {judge(row, bound)}{against}")
