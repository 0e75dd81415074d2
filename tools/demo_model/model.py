"""The SD 1.x graph (UNet, KL-VAE, CLIP text encoder) at free widths, with the original checkpoint's tensor names.

`state_dict()` of UNet, AutoencoderKL and TextEncoder gives the names of a single-file SD 1.x checkpoint
once the prefixes of `export.py` are put before them.  Layout of every picture tensor is NCHW.
"""
import math

import torch
from torch import nn
from torch.nn import functional as F

SCALE = 0.18215  # SD 1.x latent scale
# A level's width is base * mult: all levels carry at least 2 channels per group of the 32-group norms.
UNET = dict(base=64, mult=(1, 1, 1, 1), context=64, heads=8)
VAE = dict(base=64, mult=(1, 1, 1, 1), z=4)
TEXT = dict(width=64, layers=4, heads=1, vocab=49408, positions=77)


def attend(q, k, v, heads):
    """Multi-head attention of (B, N, C) queries over (B, M, C) keys and values, scaled by 1/sqrt(C/heads)."""
    b, n, c = q.shape
    split = lambda t: t.float().view(b, -1, heads, c // heads).transpose(1, 2)
    with torch.autocast("cpu", enabled=False):  # fp32: torch's bf16 backward is far slower at these head widths
        out = F.scaled_dot_product_attention(split(q), split(k), split(v))
    return out.transpose(1, 2).reshape(b, n, c).to(q.dtype)


class GroupNorm(nn.GroupNorm):
    """32-group norm computed in fp32 whatever the input's dtype (torch's bf16 backward is several times slower)."""

    def __init__(self, width, eps=1e-5):
        super().__init__(32, width, eps=eps)

    def forward(self, x):
        return F.group_norm(x.float(), 32, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


# ---------------------------------------------------------------- UNet


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the time embedding added between them."""

    def __init__(self, cin, cout, emb):
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, cout))
        self.out_layers = nn.Sequential(GroupNorm(cout), nn.SiLU(), nn.Identity(),
                                        nn.Conv2d(cout, cout, 3, padding=1))
        self.skip_connection = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        nn.init.zeros_(self.out_layers[3].weight)
        nn.init.zeros_(self.out_layers[3].bias)

    def forward(self, x, emb, _):
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    """Attention over `context`, or over the input itself when there is none."""

    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x, context=None):
        context = x if context is None else context
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GatedGelu(nn.Module):
    """One projection whose second half, through GELU, gates the first."""

    def __init__(self, cin, cout):
        super().__init__()
        self.proj = nn.Linear(cin, 2 * cout)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of four times the width."""

    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each pre-normed and residual."""

    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the picture's positions between two 1x1 convolutions."""

    def __init__(self, width, context, heads):
        super().__init__()
        self.norm = GroupNorm(width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x, _, context):
        b, c, h, w = x.shape
        t = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, c)
        t = self.transformer_blocks[0](t, context)
        return x + self.proj_out(t.view(b, h, w, c).permute(0, 3, 1, 2))


class Downsample(nn.Module):
    """Stride-2 3x3 convolution."""

    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, *_):
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, *_):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Input(nn.Conv2d):
    """The first convolution, with the call signature of the other blocks."""

    def forward(self, x, *_):
        return super().forward(x)


def timestep_embedding(t, width):
    """Sinusoids of t (B,), cosines first, periods from 2 pi to 20000 pi; returns (B, width) fp32."""
    freqs = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
    args = t.float()[:, None] * freqs[None]
    return torch.cat([args.cos(), args.sin()], -1)


class UNet(nn.Module):
    """Predicts the noise in latents (B, 4, H, W) at steps t (B,) under text states (B, T, context)."""

    def __init__(self, base, mult, context, heads, channels=4, res_blocks=2):
        super().__init__()
        emb, last = 4 * base, len(mult) - 1
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))

        def stage(cin, cout, level, *tail):
            blocks = [ResBlock(cin, cout, emb)]
            if level < last:
                blocks.append(SpatialTransformer(cout, context, heads))
            return nn.ModuleList([*blocks, *tail])

        width, skips = base, [base]
        self.input_blocks = nn.ModuleList([nn.ModuleList([Input(channels, base, 3, padding=1)])])
        for level, m in enumerate(mult):
            for _ in range(res_blocks):
                self.input_blocks.append(stage(width, base * m, level))
                width = base * m
                skips.append(width)
            if level < last:
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([ResBlock(width, width, emb), SpatialTransformer(width, context, heads),
                                           ResBlock(width, width, emb)])
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for i in range(res_blocks + 1):
                tail = [Upsample(base * mult[level])] if level and i == res_blocks else []
                self.output_blocks.append(stage(width + skips.pop(), base * mult[level], level, *tail))
                width = base * mult[level]
        self.out = nn.Sequential(GroupNorm(width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))
        nn.init.zeros_(self.out[2].weight)

    def forward(self, x, t, context):
        emb = self.time_embed(timestep_embedding(t, self.base).to(self.time_embed[0].weight.dtype))
        skips = []
        for blocks in self.input_blocks:
            for block in blocks:
                x = block(x, emb, context)
            skips.append(x)
        for block in self.middle_block:
            x = block(x, emb, context)
        for blocks in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for block in blocks:
                x = block(x, emb, context)
        return self.out(x)


# ---------------------------------------------------------------- VAE


class VaeResBlock(nn.Module):
    """Two normed 3x3 convolutions with a residual."""

    def __init__(self, cin, cout):
        super().__init__()
        self.norm1 = GroupNorm(cin, eps=1e-6)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = GroupNorm(cout, eps=1e-6)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout:
            self.nin_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class VaeAttention(nn.Module):
    """Single-head attention over all positions."""

    def __init__(self, width):
        super().__init__()
        self.norm = GroupNorm(width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        n = self.norm(x)
        flat = lambda t: t.permute(0, 2, 3, 1).reshape(b, h * w, c)
        out = attend(flat(self.q(n)), flat(self.k(n)), flat(self.v(n)), 1)
        return x + self.proj_out(out.view(b, h, w, c).permute(0, 3, 1, 2))


class VaeMiddle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = VaeResBlock(width, width), VaeAttention(width), VaeResBlock(width, width)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class VaeDownsample(nn.Module):
    """Stride-2 convolution padded on the right and the bottom alone."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VaeUpsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Picture (B, 3, H, W) in [-1, 1] to moments (B, 2z, H/8, W/8)."""

    def __init__(self, base, mult, z):
        super().__init__()
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)
        self.down, width = nn.ModuleList(), base
        for level, m in enumerate(mult):
            stage = nn.Module()
            stage.block = nn.ModuleList([VaeResBlock(width if i == 0 else base * m, base * m) for i in range(2)])
            width = base * m
            if level < len(mult) - 1:
                stage.downsample = VaeDownsample(width)
            self.down.append(stage)
        self.mid = VaeMiddle(width)
        self.norm_out = GroupNorm(width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 2 * z, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for stage in self.down:
            for block in stage.block:
                x = block(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latent (B, z, H, W) to picture (B, 3, 8H, 8W) in about [-1, 1]."""

    def __init__(self, base, mult, z):
        super().__init__()
        width = base * mult[-1]
        self.conv_in = nn.Conv2d(z, width, 3, padding=1)
        self.mid = VaeMiddle(width)
        stages = []
        for level in range(len(mult) - 1, -1, -1):
            stage, m = nn.Module(), base * mult[level]
            stage.block = nn.ModuleList([VaeResBlock(width if i == 0 else m, m) for i in range(3)])
            width = m
            if level:
                stage.upsample = VaeUpsample(width)
            stages.append(stage)
        self.up = nn.ModuleList(reversed(stages))
        self.norm_out = GroupNorm(width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        x = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            for block in stage.block:
                x = block(x)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """Encoder and decoder with their 1x1 quant convolutions."""

    def __init__(self, base, mult, z):
        super().__init__()
        self.encoder, self.decoder = Encoder(base, mult, z), Decoder(base, mult, z)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    def encode(self, x):
        """Mean and log-variance of the latent, unscaled."""
        return self.quant_conv(self.encoder(x)).chunk(2, 1)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


# ---------------------------------------------------------------- text encoder


class ClipAttention(nn.Module):
    """Causal self-attention with biases."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, n, c = x.shape
        split = lambda t: t.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        out = F.scaled_dot_product_attention(split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)),
                                             is_causal=True)
        return self.out_proj(out.transpose(1, 2).reshape(b, n, c))


class ClipLayer(nn.Module):
    """Pre-norm attention and quick-GELU feed-forward."""

    def __init__(self, width, heads):
        super().__init__()
        self.self_attn = ClipAttention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        h = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](h * torch.sigmoid(1.702 * h))


class TextEncoder(nn.Module):
    """Token ids (B, 77) to the last hidden states after the final norm, (B, 77, width)."""

    def __init__(self, width, layers, heads, vocab, positions):
        super().__init__()
        self.embeddings = nn.ModuleDict({"token_embedding": nn.Embedding(vocab, width),
                                         "position_embedding": nn.Embedding(positions, width)})
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.2)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([ClipLayer(width, heads) for _ in range(layers)])})
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"].weight[: ids.shape[1]]
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.final_layer_norm(x)


# ---------------------------------------------------------------- noise


def alphas_cumprod(steps=1000):
    """SD 1.x's scaled-linear schedule, fp32 (steps,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
