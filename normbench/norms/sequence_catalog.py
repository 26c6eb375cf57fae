"""The norms of token sequences: a literal, read-only table like `catalog.NORMS`, importable without torch.

The layout is ``(N, T, D)``: N sequences of T tokens with D features, where an entry says "per channel" per feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from normbench.norms.entry import Norm, Option

_EPS = Option(type=float, default=1e-5, above=0, help="added to the variance")
_AFFINE = Option(type=bool, default=True, help="learn a scale and a shift per feature")
_ALPHA = Option(type=float, default=0.5, above=0, help="first value of the learned alpha")

SEQUENCE_NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "ln": Norm(
            build="sequence:TokenLayerNorm",
            label="LN",
            full_name="Layer Normalization of each token",
            axes="D",
            learnable_per_channel="2 (scale, shift)",
            year=2016,
            paper="Ba, Kiros & Hinton, Layer Normalization",
            arxiv="1607.06450",
            options={"eps": _EPS, "affine": _AFFINE},
        ),
        "rms": Norm(
            build="sequence:TokenRMSNorm",
            label="RMSNorm",
            full_name="RMSNorm of each token",
            axes="D",
            learnable_per_channel="1 (scale)",
            year=2019,
            paper="Zhang & Sennrich, Root Mean Square Layer Normalization",
            arxiv="1910.07467",
            options={
                "eps": Option(type=float, default=1e-6, above=0, help="added to the mean square"),
                "affine": Option(type=bool, default=True, help="learn a scale per feature"),
            },
        ),
        "bn": Norm(
            build="sequence:TokenBatchNorm",
            label="BN",
            full_name="Batch Normalization over sequences and tokens",
            axes="N, T",
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization",
            arxiv="1502.03167",
            options={
                "eps": _EPS,
                "momentum": Option(
                    type=float,
                    default=0.1,
                    minimum=0,
                    maximum=1,
                    help="weight of the new batch in the running statistics",
                ),
                "affine": _AFFINE,
            },
        ),
        "dyt": Norm(
            build="sequence:TokenDynamicTanh",
            label="DyT",
            full_name="Dynamic Tanh",
            axes="none",
            learnable_per_channel="2 (scale, shift), and 1 a layer (alpha)",
            year=2025,
            paper="Zhu, Chen, He, LeCun & Liu, Transformers without Normalization",
            arxiv="2503.10622",
            options={"alpha": _ALPHA},
        ),
        "derf": Norm(
            build="sequence:TokenDynamicErf",
            label="Derf",
            full_name="Dynamic erf",
            axes="none",
            learnable_per_channel="2 (scale, shift), and 2 a layer (alpha, s)",
            year=2025,
            paper="Chen, Lu, Zhu, Sun & Liu, Stronger Normalization-Free Transformers",
            arxiv="2512.10938",
            options={"alpha": _ALPHA},
        ),
        "none": Norm(
            build="sequence:no_norm",
            label="none",
            full_name="No normalization",
            kind="none",
            axes="none",
            learnable_per_channel="0",
            year=None,
            paper="",
            arxiv=None,
        ),
    }
)
