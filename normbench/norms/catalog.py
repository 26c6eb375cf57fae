"""The catalog of norms, of norms of sequences and of weight methods: literal tables, importable without torch.

Each entry names its builder as ``"package.module:function"`` and lists its options with their defaults; a test holds
both against the builder's signature. The layout is ``(N, C, H, W)``, and ``(N, T, D)`` in `SEQUENCE_NORMS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from normbench.norms.entry import Norm, Weight
from normbench.registry import Option

_EPS = Option(type=float, default=1e-5, above=0, help="added to the variance")
_AFFINE = Option(type=bool, default=True, help="learn a scale and a shift per channel")
_MOMENTUM = Option(
    type=float, default=0.1, minimum=0, maximum=1, help="weight of the new batch in the running statistics"
)
_GROUPS = Option(type=int, default=4, minimum=1, help="number of groups; must divide the channels")
_GROUPS_UP_TO_32 = Option(
    type=int,
    default=None,
    minimum=1,
    help="number of groups; must divide the channels; null: their largest divisor up to 32",
)
_GROUP_SIZE = Option(
    type=int, default=None, minimum=1, instead_of="groups", help="channels per group, in place of groups"
)

_EVONORM_B0 = Norm(
    build="normbench.norms.evonorm:EvoNormB",
    fixed={"version": 0},
    label="EvoNorm-B0",
    full_name="EvoNorm-B0",
    kind="norm_act",
    axes="N, H, W; H, W",
    learnable_per_channel="3 (scale, shift, v1)",
    running_state="variance",
    train_eval_differ=True,
    batch_dependent=True,
    year=2020,
    paper="Liu, Brock, Simonyan & Le, Evolving Normalization-Activation Layers",
    arxiv="2004.02967",
    options={"eps": _EPS, "momentum": _MOMENTUM},
)
_EVONORM_S0 = replace(
    _EVONORM_B0,
    build="normbench.norms.evonorm:EvoNormS",
    label="EvoNorm-S0",
    full_name="EvoNorm-S0",
    axes="C/G, H, W",
    running_state="none",
    train_eval_differ=False,
    batch_dependent=False,
    options={"groups": _GROUPS_UP_TO_32, "group_size": _GROUP_SIZE, "eps": _EPS},
)


def _without_v1(entry: Norm, name: str, *, version: int) -> Norm:
    """Return the entry of a later version of an EvoNorm, which learns no v1."""
    return replace(
        entry, fixed={"version": version}, label=name, full_name=name, learnable_per_channel="2 (scale, shift)"
    )


NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        # batch statistics
        "bn": Norm(
            build="normbench.norms.batch_norm_parts:batch_norm",
            label="BN",
            full_name="Batch Normalization",
            axes="N, H, W",
            folds_into_conv=True,
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization",
            arxiv="1502.03167",
            options={
                "eps": _EPS,
                "momentum": _MOMENTUM,
                "affine": _AFFINE,
                "center": Option(
                    type=bool, default=True, recorded_at_default=False, help="subtract the mean; false: 0 in its place"
                ),
                "deviation": Option(
                    type=str,
                    default="std",
                    choices=("std", "l1", "none"),
                    recorded_at_default=False,
                    help="divide by the standard deviation, by the mean absolute deviation, or not at all",
                ),
                "learn_scale": Option(
                    type=bool,
                    default=True,
                    recorded_at_default=False,
                    help="with affine, learn a scale; false: a shift alone",
                ),
            },
        ),
        "bn_nostats": Norm(
            build="normbench.norms.batch_norm:BatchNorm",
            fixed={"track_running_stats": False, "momentum": 0.1},
            label="BN (batch statistics)",
            full_name="Batch Normalization with batch statistics in evaluation too",
            axes="N, H, W",
            learnable_per_channel="2 (scale, shift)",
            batch_dependent=True,
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization",
            arxiv="1502.03167",
            options={"eps": _EPS, "affine": _AFFINE},
        ),
        "ghost_bn": Norm(
            build="normbench.norms.batch_norm:GhostBatchNorm",
            label="Ghost BN",
            full_name="Ghost Batch Normalization",
            axes="N/K, H, W",
            folds_into_conv=True,
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2017,
            paper="Hoffer, Hubara & Soudry, Train longer, generalize better",
            arxiv="1705.08741",
            options={
                "norm_batch_size": Option(type=int, default=32, minimum=1, help="samples that are normalized together"),
                "eps": _EPS,
                "momentum": _MOMENTUM,
                "affine": _AFFINE,
            },
        ),
        "brn": Norm(
            build="normbench.norms.batch_renorm:BatchRenorm",
            label="BRN",
            full_name="Batch Renormalization",
            axes="N, H, W",
            folds_into_conv=True,
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, standard deviation",
            train_eval_differ=True,
            batch_dependent=True,
            year=2017,
            paper="Ioffe, Batch Renormalization",
            arxiv="1702.03275",
            options={
                "r_max": Option(type=float, default=3.0, minimum=1, help="last limit of the scale correction r"),
                "d_max": Option(type=float, default=5.0, minimum=0, help="last limit of the shift correction d"),
                "ramp_start": Option(
                    type=float, default=1 / 16, minimum=0, below=1, help="fraction of training spent as plain BN"
                ),
                "r_ramp_end": Option(
                    type=float, default=1 / 2, above=0, maximum=1, help="fraction of training where r_max is reached"
                ),
                "d_ramp_end": Option(
                    type=float, default=5 / 16, above=0, maximum=1, help="fraction of training where d_max is reached"
                ),
                "eps": Option(type=float, default=1e-3, above=0, help="added to the variance"),
                "momentum": Option(
                    type=float,
                    default=0.01,
                    minimum=0,
                    maximum=1,
                    help="weight of the new batch in the running statistics",
                ),
                "affine": _AFFINE,
            },
        ),
        "frozen_bn": Norm(
            build="normbench.norms.batch_norm:FrozenBatchNorm",
            label="Frozen BN",
            full_name="Batch Normalization with fixed statistics, scale and shift",
            axes="none",
            folds_into_conv=True,
            learnable_per_channel="0",
            running_state="mean, variance, scale, shift (all fixed)",
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization; fixed as in detection fine-tuning",
            arxiv="1502.03167",
            options={"eps": _EPS},
        ),
        "custom_bn": Norm(
            build="normbench.norms.custom_batch_norm:CustomBatchNorm",
            label="BN (written out)",
            full_name="Batch Normalization written out from its formula, for teaching",
            axes="N, H, W",
            folds_into_conv=True,
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            has_kernel=False,
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization",
            arxiv="1502.03167",
            options={"eps": _EPS, "momentum": _MOMENTUM},
        ),
        "mabn": Norm(
            build="normbench.norms.moving_average:MovingAverageBatchNorm",
            label="MABN",
            full_name="Moving Average Batch Normalization",
            axes="N, H, W",
            folds_into_conv=True,
            learnable_per_channel="2 (scale, shift)",
            running_state="mean square, and those of the last batches, forward and backward",
            train_eval_differ=True,
            batch_dependent=True,
            has_surrogate_gradient=True,
            has_kernel=False,
            year=2020,
            paper="Yan et al., Towards Stabilizing Batch Statistics in Backward Propagation of Batch Normalization",
            arxiv="2001.06838",
            options={
                "num_batches": Option(type=int, default=16, minimum=1, maximum=4096, help="batches averaged over"),
                "warmup_steps": Option(
                    type=int,
                    default=100,
                    minimum=0,
                    help="steps with the batch's own statistics; ten times as many: r = 1",
                ),
                "eps": Option(type=float, default=1e-5, above=0, help="added to the mean square"),
                "momentum": Option(
                    type=float,
                    default=0.02,
                    minimum=0,
                    maximum=1,
                    help="weight of the newest in the running mean square",
                ),
                "affine": _AFFINE,
            },
        ),
        "online": Norm(
            build="normbench.norms.online_norm:OnlineNorm",
            label="Online",
            full_name="Online Normalization",
            axes="N, H, W; C, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance, two controls of the gradient",
            train_eval_differ=True,
            batch_dependent=True,
            has_surrogate_gradient=True,
            has_kernel=False,
            year=2019,
            paper="Chiley et al., Online Normalization for Training Neural Networks",
            arxiv="1905.05894",
            options={
                "decay": Option(type=float, default=0.999, minimum=0, below=1, help="of the averages, per sample"),
                "backward_decay": Option(
                    type=float, default=0.99, minimum=0, below=1, help="of the gradient's controls, per sample"
                ),
                "layer_scaling": Option(
                    type=bool, default=True, help="divide by the root mean square over C, H, W at the end"
                ),
                "eps": _EPS,
                "affine": _AFFINE,
            },
        ),
        "iternorm": Norm(
            build="normbench.norms.iterative_norm:IterNorm",
            label="IterNorm",
            full_name="Iterative Normalization: whitening of groups of channels",
            axes="N, C/G, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, whitening matrix",
            train_eval_differ=True,
            batch_dependent=True,
            has_kernel=False,
            year=2019,
            paper="Huang, Zhou, Zhu, Liu & Shao, Iterative Normalization: Beyond Standardization towards Efficient "
            "Whitening",
            arxiv="1904.03441",
            options={
                "groups": Option(
                    type=int,
                    default=None,
                    minimum=1,
                    help="number of groups; must divide the channels; null: as few as have 64 channels at most",
                ),
                "group_size": _GROUP_SIZE,
                "num_iterations": Option(
                    type=int, default=5, minimum=1, maximum=100, help="steps of Newton's iteration"
                ),
                "eps": _EPS,
                "momentum": _MOMENTUM,
                "affine": _AFFINE,
            },
        ),
        # layer normalization
        "ln": Norm(
            build="normbench.norms.group_norm:GroupNorm",
            fixed={"num_groups": 1, "name": "ln"},
            label="LN (GroupNorm(1, C))",
            full_name="Layer Normalization as GroupNorm(1, C): statistics over C, H, W, affine per channel",
            axes="C, H, W",
            learnable_per_channel="2 (scale, shift)",
            year=2016,
            paper="Ba, Kiros & Hinton, Layer Normalization; per-channel affine as in Wu & He 2018",
            arxiv="1607.06450",
            options={"eps": _EPS, "affine": _AFFINE},
        ),
        "ln_chw": Norm(
            build="normbench.norms.layer_norm:LayerNormCHW",
            label="LN (C, H, W)",
            full_name="Layer Normalization over C, H, W with a scale and a shift per element",
            axes="C, H, W",
            learnable_per_channel="2 H W (scale, shift per element)",
            needs_size=True,
            year=2016,
            paper="Ba, Kiros & Hinton, Layer Normalization",
            arxiv="1607.06450",
            options={
                "eps": _EPS,
                "affine": Option(type=bool, default=True, help="learn a scale and a shift per element"),
            },
        ),
        "ln2d": Norm(
            build="normbench.norms.layer_norm:LayerNorm2d",
            fixed={"name": "ln2d"},
            label="LN2d",
            full_name="Layer Normalization over the channels at each position, as in ConvNeXt",
            axes="C",
            learnable_per_channel="2 (scale, shift)",
            year=2022,
            paper="Liu et al., A ConvNet for the 2020s",
            arxiv="2201.03545",
            options={"eps": Option(type=float, default=1e-6, above=0, help="added to the variance"), "affine": _AFFINE},
        ),
        "rms2d": Norm(
            build="normbench.norms.layer_norm:RMSNorm2d",
            label="RMSNorm2d",
            full_name="RMSNorm over the channels at each position",
            axes="C",
            learnable_per_channel="1 (scale)",
            year=2019,
            paper="Zhang & Sennrich, Root Mean Square Layer Normalization",
            arxiv="1910.07467",
            options={
                "eps": Option(type=float, default=1e-6, above=0, help="added to the mean square"),
                "affine": Option(type=bool, default=True, help="learn a scale per channel"),
            },
        ),
        "pono": Norm(
            build="normbench.norms.layer_norm:positional_norm",
            label="PONO",
            full_name="Positional Normalization",
            axes="C",
            learnable_per_channel="0",
            year=2019,
            paper="Li, Wu, Weinberger & Belongie, Positional Normalization",
            arxiv="1907.04312",
            options={"eps": _EPS},
        ),
        # instance and group
        "in": Norm(
            build="normbench.norms.group_norm:instance_norm",
            label="IN",
            full_name="Instance Normalization",
            axes="H, W",
            learnable_per_channel="0 (2 with affine)",
            year=2016,
            paper="Ulyanov, Vedaldi & Lempitsky, Instance Normalization",
            arxiv="1607.08022",
            options={
                "eps": _EPS,
                "affine": Option(type=bool, default=False, help="learn a scale and a shift per channel"),
            },
        ),
        "gn": Norm(
            build="normbench.norms.group_norm:group_norm",
            label="GN",
            full_name="Group Normalization",
            axes="C/G, H, W",
            learnable_per_channel="2 (scale, shift)",
            year=2018,
            paper="Wu & He, Group Normalization",
            arxiv="1803.08494",
            options={"groups": _GROUPS, "group_size": _GROUP_SIZE, "eps": _EPS, "affine": _AFFINE},
        ),
        "group_rms": Norm(
            build="normbench.norms.group_norm:GroupRMSNorm",
            label="Group RMSNorm",
            full_name="RMSNorm over groups of channels",
            axes="C/G, H, W",
            learnable_per_channel="1 (scale), 2 with shift",
            year=2019,
            paper="Zhang & Sennrich, Root Mean Square Layer Normalization; groups as in Wu & He 2018",
            arxiv="1910.07467",
            options={
                "groups": _GROUPS,
                "group_size": _GROUP_SIZE,
                "eps": Option(type=float, default=1e-5, above=0, help="added to the mean square"),
                "affine": Option(type=bool, default=True, help="learn a scale per channel"),
                "shift": Option(type=bool, default=False, help="with affine, learn a shift per channel too"),
            },
        ),
        # mixtures
        "sn": Norm(
            build="normbench.norms.mixture:SwitchableNorm",
            label="SN",
            full_name="Switchable Normalization",
            axes="H, W; C, H, W; N, H, W",
            learnable_per_channel="2 (scale, shift), and 6 per layer (logits)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2018,
            paper="Luo et al., Differentiable Learning-to-Normalize via Switchable Normalization",
            arxiv="1806.10779",
            options={
                "use_bn": Option(
                    type=bool, default=True, help="mix in batch statistics; if false, the batch has no part"
                ),
                "eps": _EPS,
                "momentum": _MOMENTUM,
                "affine": _AFFINE,
            },
        ),
        "bin": Norm(
            build="normbench.norms.mixture:BatchInstanceNorm",
            label="BIN",
            full_name="Batch-Instance Normalization",
            axes="N, H, W; H, W",
            learnable_per_channel="3 (scale, shift, gate)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2018,
            paper="Nam & Kim, Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks",
            arxiv="1805.07925",
            options={"eps": _EPS, "momentum": _MOMENTUM, "affine": _AFFINE},
        ),
        "ibn": Norm(
            build="normbench.norms.mixture:IBNa",
            label="IBN-a",
            full_name="IBN-a: Instance Normalization of some channels, Batch Normalization of the rest",
            axes="H, W; N, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2018,
            paper="Pan, Luo, Shi & Tang, Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
            arxiv="1807.09441",
            options={
                "ratio": Option(
                    type=float, default=0.5, above=0, below=1, help="share of the channels with instance statistics"
                ),
                "eps": _EPS,
                "momentum": _MOMENTUM,
                "affine": _AFFINE,
            },
        ),
        "bcn": Norm(
            build="normbench.norms.mixture:BatchChannelNorm",
            label="BCN",
            full_name="Batch-Channel Normalization",
            axes="N, H, W; C/G, H, W",
            learnable_per_channel="2 (scale, shift), and 2 per group",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2019,
            paper="Qiao et al., Rethinking Normalization and Elimination Singularity in Neural Networks",
            arxiv="1911.09738",
            options={
                "groups": Option(
                    type=int,
                    default=None,
                    minimum=1,
                    help="number of groups; must divide the channels; null: their largest divisor up to 32 that leaves "
                    "two channels a group",
                ),
                "group_size": _GROUP_SIZE,
                "eps": _EPS,
                "momentum": _MOMENTUM,
            },
        ),
        # norm and activation in one
        "frn": Norm(
            build="normbench.norms.filter_response:FilterResponseNorm",
            label="FRN+TLU",
            full_name="Filter Response Normalization with thresholded linear unit",
            kind="norm_act",
            axes="H, W",
            learnable_per_channel="3 (scale, shift, threshold)",
            year=2019,
            paper="Singh & Krishnan, Filter Response Normalization Layer",
            arxiv="1911.09737",
            options={
                "learnable_eps": Option(type=bool, default=False, help="add the size of one learned number to eps"),
                "eps": Option(type=float, default=1e-6, above=0, help="added to the mean square"),
            },
        ),
        "evonorm_b0": _EVONORM_B0,
        "evonorm_b1": _without_v1(_EVONORM_B0, "EvoNorm-B1", version=1),
        "evonorm_b2": _without_v1(_EVONORM_B0, "EvoNorm-B2", version=2),
        "evonorm_s0": _EVONORM_S0,
        "evonorm_s1": _without_v1(_EVONORM_S0, "EvoNorm-S1", version=1),
        "evonorm_s2": _without_v1(_EVONORM_S0, "EvoNorm-S2", version=2),
        # no statistics of the batch or the image
        "dyt": Norm(
            build="normbench.norms.dynamic_tanh:DynamicTanh",
            label="DyT",
            full_name="Dynamic Tanh",
            axes="none",
            learnable_per_channel="2 (scale, shift), and 1 per layer (alpha)",
            year=2025,
            paper="Zhu, Chen, He, LeCun & Liu, Transformers without Normalization",
            arxiv="2503.10622",
            options={"alpha": Option(type=float, default=0.5, above=0, help="first value of the learned alpha")},
        ),
        "derf": Norm(
            build="normbench.norms.dynamic_tanh:DynamicErf",
            label="Derf",
            full_name="Dynamic erf",
            axes="none",
            learnable_per_channel="2 (scale, shift), and 2 per layer (alpha, s)",
            year=2025,
            paper="Chen, Lu, Zhu, Sun & Liu, Stronger Normalization-Free Transformers",
            arxiv="2512.10938",
            options={"alpha": Option(type=float, default=0.5, above=0, help="first value of the learned alpha")},
        ),
        "grn": Norm(
            build="normbench.norms.global_response:GlobalResponseNorm",
            label="GRN",
            full_name="Global Response Normalization",
            axes="C, H, W",
            learnable_per_channel="2 (scale, shift)",
            has_kernel=False,
            year=2023,
            paper="Woo et al., ConvNeXt V2",
            arxiv="2301.00808",
            options={"eps": Option(type=float, default=1e-6, above=0, help="added to the mean energy")},
        ),
        "lrn": Norm(
            build="normbench.norms.local_response:LocalResponseNorm",
            label="LRN",
            full_name="Local Response Normalization",
            axes="C/n",
            learnable_per_channel="0",
            year=2012,
            paper="Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks",
            arxiv=None,
            options={
                "size": Option(type=int, default=5, minimum=1, help="channels that the sum of squares covers"),
                "alpha": Option(type=float, default=1e-4, minimum=0, help="factor of the mean square"),
                "beta": Option(type=float, default=0.75, minimum=0, help="exponent"),
                "k": Option(type=float, default=1.0, above=0, help="added to the scaled mean square"),
            },
        ),
        "none": Norm(
            build="normbench.norms.no_norm:no_norm",
            label="none",
            full_name="No normalization",
            kind="none",
            axes="none",
            learnable_per_channel="0 (2 with affine)",
            year=None,
            paper="Fixup: Zhang, Dauphin & Ma 2019, arXiv 1901.09321. SkipInit: De & Smith 2020, arXiv 2002.10444",
            arxiv=None,
            options={
                "init": Option(
                    type=str,
                    default="default",
                    choices=("default", "fixup", "skipinit"),
                    help="how a residual net starts without norms",
                ),
                "affine": Option(type=bool, default=False, help="learn a scale and a shift per channel"),
            },
        ),
    }
)

WEIGHTS: Mapping[str, Weight] = MappingProxyType(
    {
        "ws": Weight(
            build="normbench.norms.weight_standardization:StandardizedConv2d",
            label="WS",
            full_name="Weight Standardization",
            learnable_per_channel="none of its own",
            year=2019,
            paper="Qiao, Wang, Liu, Shen & Yuille, Micro-Batch Training with Batch-Channel Normalization and Weight "
            "Standardization",
            arxiv="1903.10520",
        ),
        "sws": Weight(
            build="normbench.norms.weight_standardization:ScaledStandardizedConv2d",
            label="SWS",
            full_name="Scaled Weight Standardization",
            learnable_per_channel="1 (gain)",
            year=2021,
            paper="Brock, De & Smith, Characterizing Signal Propagation to Close the Performance Gap in "
            "Unnormalized ResNets",
            arxiv="2101.08692",
        ),
        "wn": Weight(
            build="normbench.norms.weight_norm:WeightNormConv2d",
            label="WN",
            full_name="Weight Normalization",
            learnable_per_channel="1 (gain)",
            year=2016,
            paper="Salimans & Kingma, Weight Normalization",
            arxiv="1602.07868",
        ),
        "spectral": Weight(
            build="normbench.norms.weight_norm:SpectralNormConv2d",
            label="Spectral",
            full_name="Spectral Normalization",
            learnable_per_channel="none of its own",
            year=2018,
            paper="Miyato, Kataoka, Koyama & Yoshida, Spectral Normalization for Generative Adversarial Networks",
            arxiv="1802.05957",
        ),
    }
)

_AFFINE_PER_FEATURE = Option(type=bool, default=True, help="learn a scale and a shift per feature")

SEQUENCE_NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "ln": replace(
            NORMS["ln"],
            build="normbench.norms.sequence:TokenLayerNorm",
            fixed={},
            label="LN",
            full_name="Layer Normalization of each token",
            axes="D",
            paper="Ba, Kiros & Hinton, Layer Normalization",
            options={"eps": _EPS, "affine": _AFFINE_PER_FEATURE},
        ),
        "rms": replace(
            NORMS["rms2d"],
            build="normbench.norms.sequence:TokenRMSNorm",
            label="RMSNorm",
            full_name="RMSNorm of each token",
            axes="D",
            options={
                "eps": NORMS["rms2d"].options["eps"],
                "affine": Option(type=bool, default=True, help="learn a scale per feature"),
            },
        ),
        "bn": replace(
            NORMS["bn"],
            build="normbench.norms.sequence:TokenBatchNorm",
            fixed={},
            full_name="Batch Normalization over sequences and tokens",
            axes="N, T",
            folds_into_conv=False,
            options={"eps": _EPS, "momentum": _MOMENTUM, "affine": _AFFINE_PER_FEATURE},
        ),
        "power": replace(
            NORMS["bn"],
            build="normbench.norms.power_norm:PowerNorm",
            label="PowerNorm",
            full_name="PowerNorm",
            axes="D; N, T",
            folds_into_conv=False,
            running_state="mean square, a control of the gradient",
            has_surrogate_gradient=True,
            year=2020,
            paper="Shen, Yao, Gholami, Mahoney & Keutzer, PowerNorm: Rethinking Batch Normalization in Transformers",
            arxiv="2003.07845",
            options={
                "groups": Option(
                    type=int, default=1, minimum=1, help="groups of features scaled first; must divide the features"
                ),
                "warmup": Option(
                    type=float,
                    default=0.1,
                    minimum=0,
                    maximum=1,
                    help="share of training with the batch's own statistics",
                ),
                "eps": Option(type=float, default=1e-5, above=0, help="added to the mean square"),
                "momentum": Option(
                    type=float,
                    default=0.1,
                    minimum=0,
                    maximum=1,
                    help="weight of the newest batch, forward and backward",
                ),
                "affine": _AFFINE_PER_FEATURE,
            },
        ),
        "scalenorm": replace(
            NORMS["rms2d"],
            build="normbench.norms.sequence:TokenScaleNorm",
            label="ScaleNorm",
            full_name="ScaleNorm: every token at one learned length",
            axes="D",
            learnable_per_channel="0, and 1 per layer (length)",
            paper="Nguyen & Salazar, Transformers without Tears",
            arxiv="1910.05895",
            options={
                "eps": Option(type=float, default=1e-5, above=0, help="the least length that a token is divided by")
            },
        ),
        "seednorm": replace(
            NORMS["rms2d"],
            build="normbench.norms.sequence:TokenSeeDNorm",
            label="SeeDNorm",
            full_name="SeeDNorm: RMSNorm whose scale depends on the token",
            axes="D",
            learnable_per_channel="3 (scale, a, b)",
            year=2025,
            paper="Cai, Zhu, Liu & Min, SeeDNorm: Self-Rescaled Dynamic Normalization",
            arxiv="2510.22777",
            options={
                "num_heads": Option(
                    type=int,
                    default=None,
                    minimum=1,
                    help="slices with a dot product of their own; null: the features' largest divisor up to 8",
                ),
                "eps": NORMS["rms2d"].options["eps"],
            },
        ),
        "bhyt": replace(
            NORMS["dyt"],
            build="normbench.norms.sequence:TokenBoundedTanh",
            label="BHyT",
            full_name="Bounded hyperbolic tangent",
            axes="D",
            learnable_per_channel="1 (scale)",
            year=2026,
            paper="Byun, Choi, Kim, Park & Song, Bounded Hyperbolic Tangent: A Stable and Efficient Alternative to "
            "Pre-Layer Normalization in Large Language Models",
            arxiv="2601.09719",
            options={
                "strength": Option(type=float, default=1.0, above=0, help="c in tanh(c / (k std + |mean|) x)"),
                "width": Option(type=float, default=10.0, above=0, help="k in tanh(c / (k std + |mean|) x)"),
                "eps": NORMS["rms2d"].options["eps"],
            },
        ),
        "dyt": replace(NORMS["dyt"], build="normbench.norms.sequence:TokenDynamicTanh"),
        "derf": replace(NORMS["derf"], build="normbench.norms.sequence:TokenDynamicErf"),
        "none": replace(
            NORMS["none"],
            build="normbench.norms.sequence:no_norm",
            learnable_per_channel="0",
            paper="",
            options={},
        ),
    }
)
