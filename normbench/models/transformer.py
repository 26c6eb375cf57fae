"""Transformer blocks, and a small vision transformer made of them.

Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762; post- and pre-norm as in Xiong et al. 2020, "On
Layer Normalization in the Transformer Architecture", arXiv 2002.04745. Shapes: N sequences, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from normbench.errors import ConfigError
from normbench.norms import SequenceNormLike, as_sequence_factory
from normbench.registry import Option

PATCH_SIZE = 4
FFN_FACTOR = 4

# Not cuDNN's, which torch prefers on Hopper GPUs: from torch 2.11 on, with 64 tokens, its backward pass is reported to
# give NaN for a query whose scores are all below about -88 (github.com/pytorch/pytorch/issues/196678, with a mask).
_ATTENTION_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class MultiHeadAttention(nn.Module):
    """Self-attention in `n_head` parallel heads: ``softmax(Q K^T / sqrt(D / n_head)) V`` of each, and a linear layer.

    Raises:
        ConfigError: `n_head` does not divide `d_model`.
    """

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        if n_head < 1 or d_model % n_head:
            allowed = ", ".join(str(heads) for heads in range(1, d_model + 1) if d_model % heads == 0)
            raise ConfigError(f"n_head={n_head} does not divide d_model={d_model}. Allowed: {allowed}")
        self.n_head = n_head
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return what each token of `x`, ``(N, T, D)``, collects from the others, in the same shape.

        `mask` is ``(T, T)``, or ``(N, T, T)`` with 1 in place of N for all sequences alike: token i looks at token j
        where ``mask[..., i, j]`` is true or 1, and not where it is false or 0. Each token must look at one at least.
        """
        heads = self.query_key_value(x).unflatten(-1, (3, self.n_head, -1))  # (N, T, 3, heads, D/heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, heads, T, D/heads)
        may_look = None if mask is None else (mask > 0).unsqueeze(-3)  # ([N,] 1, T, T): the same for all heads
        with sdpa_kernel(_ATTENTION_KERNELS):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=may_look)
        collected: torch.Tensor = self.output(attended.transpose(1, 2).flatten(2))  # (N, T, D)
        return collected


class PositionwiseFFN(nn.Module):
    """A linear layer to `d_ff` features, ReLU, and one back, for each token by itself: ``(..., D)`` in and out."""

    def __init__(self, d_model: int, d_ff: int = 2048) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the transformed `x`."""
        y: torch.Tensor = self.linear2(F.relu(self.linear1(x)))
        return y


class TransformerBlock(nn.Module):
    """Attention and a feed-forward net, each with a residual connection and a norm; ``(N, T, D)`` in and out.

    Post-norm, as in the original: ``x = norm1(x + attention(x))``, ``x = norm2(x + ffn(x))``. With `pre_norm`:
    ``x = x + attention(norm1(x))``, ``x = x + ffn(norm2(x))``. Without `norm` it is LayerNorm.

    Raises:
        ConfigError: `n_head` does not divide `d_model`.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        d_ff: int = 2048,
        *,
        norm: SequenceNormLike = nn.LayerNorm,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        norm = as_sequence_factory(norm)
        self.attention = MultiHeadAttention(d_model, n_head)
        self.norm1 = norm(d_model)
        self.ffn = PositionwiseFFN(d_model, d_ff)
        self.norm2 = norm(d_model)
        self.pre_norm = pre_norm

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the transformed `x`; `mask` is that of `MultiHeadAttention.forward`."""
        if self.pre_norm:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.ffn(self.norm2(x))  # type: ignore[no-any-return]
        x = self.norm1(x + self.attention(x, mask))
        y: torch.Tensor = self.norm2(x + self.ffn(x))
        return y


VIT_OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "pre_norm": Option(type=bool, default=True, help="norm before attention and FFN, not after the addition"),
        "d_model": Option(type=int, default=192, minimum=1, maximum=2**14, help="features of a token"),
        "depth": Option(type=int, default=6, minimum=1, maximum=1000, help="number of blocks"),
        "n_head": Option(type=int, default=3, minimum=1, help="attention heads; must divide d_model"),
    }
)


class VisionTransformer(nn.Module):
    """A vision transformer for small images, after Dosovitskiy et al. 2020, arXiv 2010.11929.

    4x4 patches make tokens, 64 of 32x32 pixels, to which a learned position is added; `depth` blocks with an FFN four
    times as wide; the mean over the tokens; a linear layer. With `pre_norm` a last norm precedes the mean, since no
    block ends in one.
    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With ln and its defaults 2,693,194 parameters.

    It differs from the paper in the mean over tokens (there a class token), ReLU (there GELU) and no dropout.

    Raises:
        ConfigError: an option's value is not allowed, `n_head` does not divide `d_model`, or 4 not `image_size`.
    """

    def __init__(
        self,
        *,
        norm: SequenceNormLike,
        num_classes: int = 10,
        image_size: int = 32,
        pre_norm: bool = True,
        d_model: int = 192,
        depth: int = 6,
        n_head: int = 3,
    ) -> None:
        options = {"pre_norm": pre_norm, "d_model": d_model, "depth": depth, "n_head": n_head}
        for name, value in options.items():
            VIT_OPTIONS[name].check(f"model 'vit': {name}", value)
        if image_size % PATCH_SIZE:
            raise ConfigError(f"model 'vit': images of {image_size}x{image_size} cannot be cut into 4x4 patches")
        super().__init__()
        norm = as_sequence_factory(norm)
        self.patches = nn.Conv2d(3, d_model, PATCH_SIZE, stride=PATCH_SIZE)
        self.position = nn.Parameter(0.02 * torch.randn((image_size // PATCH_SIZE) ** 2, d_model))  # (T, D)
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, n_head, FFN_FACTOR * d_model, norm=norm, pre_norm=pre_norm) for _ in range(depth)
        )
        self.norm = norm(d_model) if pre_norm else nn.Identity()
        self.classifier = nn.Linear(d_model, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position  # (N, T, D)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.classifier(self.norm(x).mean(dim=1))
        return logits
