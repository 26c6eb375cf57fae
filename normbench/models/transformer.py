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
from normbench.layers.precision import widen
from normbench.norms import SequenceNormLike, as_sequence_factory, make_sequence_norm
from normbench.registry import Option

PATCH_SIZE = 4
FFN_FACTOR = 4

# Not cuDNN's, which torch prefers on Hopper GPUs: from torch 2.11 on, with 64 tokens, its backward pass is reported to
# give NaN for a query whose scores are all below about -88 (github.com/pytorch/pytorch/issues/196678, with a mask).
_ATTENTION_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


PLACEMENTS = ("pre", "post", "peri", "reordered")
QK_NORMS = ("none", "l2", "ln", "rms")
L2_SCALE = 10.0
"""The factor of cosine similarities at first; their learned factor has to make a softmax sharp."""


class CosineScale(nn.Module):
    """Vectors of length ``sqrt(factor)``: the product of two such is `factor` times the cosine of their angle.

    Query-Key Normalization (Henry et al. 2020, arXiv 2010.04245). The factor is learned, one for all heads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), L2_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, ``(..., D/heads)``, at its new length."""
        return (F.normalize(widen(x), dim=-1) * self.factor.abs().sqrt()).to(x.dtype)


def _qk_norm(kind: str, d_head: int) -> nn.Module:
    """Return the norm of one head's queries or keys; `kind` is one of `QK_NORMS`."""
    if kind == "l2":
        return CosineScale()
    return nn.Identity() if kind == "none" else make_sequence_norm(kind)(d_head)


class MultiHeadAttention(nn.Module):
    """Self-attention in `n_head` parallel heads: ``softmax(Q K^T / sqrt(D / n_head)) V`` of each, and a linear layer.

    With `qk_norm` each head's queries and keys are normalized first: ``ln`` or ``rms``, as in ViT-22B (Dehghani et al.
    2023, arXiv 2302.05442), or ``l2`` with a learned factor in place of ``1 / sqrt(D / n_head)`` (arXiv 2010.04245).

    Raises:
        ConfigError: `n_head` does not divide `d_model`, or `qk_norm` is none of `QK_NORMS`.
    """

    def __init__(self, d_model: int, n_head: int, *, qk_norm: str = "none") -> None:
        super().__init__()
        if n_head < 1 or d_model % n_head:
            allowed = ", ".join(str(heads) for heads in range(1, d_model + 1) if d_model % heads == 0)
            raise ConfigError(f"n_head={n_head} does not divide d_model={d_model}. Allowed: {allowed}")
        VIT_OPTIONS["qk_norm"].check("qk_norm", qk_norm)
        self.n_head = n_head
        self.scale = 1.0 if qk_norm == "l2" else None  # None: 1 / sqrt(D / n_head)
        self.query_norm, self.key_norm = (_qk_norm(qk_norm, d_model // n_head) for _ in range(2))
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
            attended = F.scaled_dot_product_attention(
                self.query_norm(query), self.key_norm(key), value, attn_mask=may_look, scale=self.scale
            )
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

    By `placement`, for both parts f (attention, FFN), each with norms of its own:

    - ``post``, as in the original: ``x = norm(x + f(x))``;
    - ``pre``: ``x = x + f(norm(x))``;
    - ``peri``: ``x = x + out_norm(f(norm(x)))`` (Kim et al. 2025, arXiv 2502.02732);
    - ``reordered``: ``x = x + norm(f(x))`` (OLMo 2, arXiv 2501.00656).

    Without a `norm` it is LayerNorm. Without a `placement`, `pre_norm` chooses between ``pre`` and ``post``.
    `output_scale` multiplies what a norm before f returns: LayerNorm Scaling (Sun et al. 2025, arXiv 2502.05795) has
    ``1 / sqrt(l)`` in the l-th block.

    Raises:
        ConfigError: `n_head` does not divide `d_model`, or a choice is none of those allowed.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        d_ff: int = 2048,
        *,
        norm: SequenceNormLike | None = None,
        pre_norm: bool = False,
        placement: str | None = None,
        qk_norm: str = "none",
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        factory = make_sequence_norm("ln") if norm is None else as_sequence_factory(norm)
        self.placement = resolve_placement(pre_norm, placement)
        self.output_scale = output_scale
        self.attention = MultiHeadAttention(d_model, n_head, qk_norm=qk_norm)
        self.norm1 = factory(d_model)
        self.ffn = PositionwiseFFN(d_model, d_ff)
        self.norm2 = factory(d_model)
        if self.placement == "peri":
            self.out_norm1, self.out_norm2 = factory(d_model), factory(d_model)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the transformed `x`; `mask` is that of `MultiHeadAttention.forward`."""
        if self.placement == "post":
            x = self.norm1(x + self.attention(x, mask))
            return self.norm2(x + self.ffn(x))  # type: ignore[no-any-return]
        if self.placement == "reordered":
            x = x + self.norm1(self.attention(x, mask))
            return x + self.norm2(self.ffn(x))  # type: ignore[no-any-return]
        branch = self.attention(self._scaled(self.norm1(x)), mask)
        x = x + (self.out_norm1(branch) if self.placement == "peri" else branch)
        branch = self.ffn(self._scaled(self.norm2(x)))
        y: torch.Tensor = x + (self.out_norm2(branch) if self.placement == "peri" else branch)
        return y

    def _scaled(self, normalized: torch.Tensor) -> torch.Tensor:
        return normalized if self.output_scale == 1 else normalized * self.output_scale


def resolve_placement(pre_norm: bool, placement: str | None) -> str:
    """Return one of `PLACEMENTS`: `placement` if given, and otherwise ``pre`` or ``post`` by `pre_norm`.

    Raises:
        ConfigError: `placement` is none of them.
    """
    VIT_OPTIONS["placement"].check("placement", placement)
    return placement or ("pre" if pre_norm else "post")


VIT_OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "pre_norm": Option(type=bool, default=True, help="norm before attention and FFN, not after the addition"),
        "d_model": Option(type=int, default=192, minimum=1, maximum=2**14, help="features of a token"),
        "depth": Option(type=int, default=6, minimum=1, maximum=1000, help="number of blocks"),
        "n_head": Option(type=int, default=3, minimum=1, help="attention heads; must divide d_model"),
        "placement": Option(
            type=str,
            default=None,
            choices=PLACEMENTS,
            recorded_at_default=False,
            help="where norms stand; null: by pre_norm",
        ),
        "qk_norm": Option(
            type=str, default="none", choices=QK_NORMS, recorded_at_default=False, help="norm of queries and keys"
        ),
        "scale_by_depth": Option(
            type=bool,
            default=False,
            recorded_at_default=False,
            help="multiply what the norms of block l return by 1 / sqrt(l); with norms before attention and FFN only",
        ),
    }
)


class VisionTransformer(nn.Module):
    """A vision transformer for small images, after Dosovitskiy et al. 2020, arXiv 2010.11929.

    4x4 patches make tokens, 64 of 32x32 pixels, to which a learned position is added; `depth` blocks with an FFN four
    times as wide; the mean over the tokens; a linear layer. ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``.
    With ln and its defaults 2,693,194 parameters. Placement ``pre`` has a last norm before the mean, since no block
    ends in one; ``peri`` has that and one of the embedding, as in its paper; `scale_by_depth` is LayerNorm Scaling, of
    the blocks' norms alone.

    It differs from the paper in the mean over tokens (there a class token), ReLU (there GELU) and no dropout.

    Raises:
        ConfigError: an option's value is not allowed, `n_head` does not divide `d_model`, 4 not `image_size`, or
            `scale_by_depth` does not go with the placement.
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
        placement: str | None = None,
        qk_norm: str = "none",
        scale_by_depth: bool = False,
    ) -> None:
        options = {
            "pre_norm": pre_norm, "d_model": d_model, "depth": depth, "n_head": n_head,
            "placement": placement, "qk_norm": qk_norm, "scale_by_depth": scale_by_depth,
        }  # fmt: skip
        for name, value in options.items():
            VIT_OPTIONS[name].check(f"model 'vit': {name}", value)
        placed = resolve_placement(pre_norm, placement)
        if scale_by_depth and placed not in ("pre", "peri"):
            raise ConfigError(f"model 'vit': scale_by_depth needs the placement pre or peri, not {placed}")
        if image_size % PATCH_SIZE:
            raise ConfigError(f"model 'vit': images of {image_size}x{image_size} cannot be cut into 4x4 patches")
        super().__init__()
        norm = as_sequence_factory(norm)
        self.patches = nn.Conv2d(3, d_model, PATCH_SIZE, stride=PATCH_SIZE)
        self.position = nn.Parameter(0.02 * torch.randn((image_size // PATCH_SIZE) ** 2, d_model))  # (T, D)
        self.embedding_norm = norm(d_model) if placed == "peri" else nn.Identity()
        self.blocks = nn.ModuleList(
            TransformerBlock(
                d_model, n_head, FFN_FACTOR * d_model, norm=norm, placement=placed, qk_norm=qk_norm,
                output_scale=block**-0.5 if scale_by_depth else 1.0,
            )
            for block in range(1, depth + 1)
        )  # fmt: skip
        self.norm = norm(d_model) if placed in ("pre", "peri") else nn.Identity()
        self.classifier = nn.Linear(d_model, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position  # (N, T, D)
        x = self.embedding_norm(x)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.classifier(self.norm(x).mean(dim=1))
        return logits
