"""The decision tree: literal data. Each leaf is a `Recommendation`, each fork a `Question`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OptionValue = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A leaf: which norm to take, and why."""

    norm: str
    """A key of the model's norms, with ``+ws`` or ``+sws`` where it applies."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    form: str = ""
    """How the norm is to be used, where its name does not say it."""
    model: str = "resnet9"
    """The model of NormBench on which to try it."""
    because: str
    also: tuple[str, ...] = ()
    """Norms worth comparing with it."""
    avoid: tuple[tuple[str, str], ...] = ()
    """Norms, each with the reason against it."""
    hint: str
    """The thing to do before judging."""
    evidence: tuple[str, ...]
    """Keys of `EVIDENCE`."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One answer to a question; for a number, the largest one that it covers (None: no limit)."""

    answer: str
    label: str
    then: Question | Recommendation
    up_to: int | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A fork. `name` is the flag that answers it."""

    name: str
    asks: str
    branches: tuple[Branch, ...]
    is_number: bool = False


SMALL_BATCH_AVOID = (
    ("bn", "its statistics over a few images are too noisy, and evaluation uses others"),
    ("brn", "wins back only a quarter of what BN loses at 4 images"),
)
TUNE = "Tune the learning rate for each norm: a single rate mostly measures which norm tolerates it."
REGULARIZE = "Give it more augmentation before judging: it regularizes less than BN does."

BN = Recommendation(
    norm="bn",
    because="With 16 or more independent images per device BN is mostly ahead of GN, LN and IN, and folds into the "
    "convolution at inference. In our trainings at batch 16 GN with weight standardization was as good or better.",
    also=("gn", "gn+ws", "evonorm_s0", "bin"),
    avoid=(
        ("ln", "1.7 points behind BN on ImageNet, as GroupNorm(1, C)"),
        ("in", "loses what distinguishes images"),
    ),
    hint=TUNE,
    evidence=(
        "own_tutorial",
        "own_batch_16",
        "own_recipe",
        "own_speedrun",
        "own_sweep",
        "own_costs",
        "gn_all_norms",
        "cifar_resnet20",
        "speed_runs",
        "bin",
    ),
)
BN_OR_GN = Recommendation(
    norm="bn",
    because="Between 5 and 15 images it depends: on CIFAR-10 BN lost nothing at 8, perhaps because its statistics "
    "run over all positions of the 8 images; on ImageNet it loses to GN there. Test both.",
    also=("gn", "gn+ws", "ghost_bn"),
    avoid=(("in", "loses what distinguishes images"),),
    hint=TUNE,
    evidence=("own_batch_16", "own_sweep", "cifar_batch8", "gn_sweep"),
)
GHOST = Recommendation(
    norm="ghost_bn",
    options={"norm_batch_size": 32},
    because="Statistics over chunks of the batch bring back the noise that regularizes, which a very large batch "
    "lacks.",
    also=("bn",),
    avoid=(("bn", "nothing is wrong with it, but above some 1000 images its statistics hardly regularize"),),
    hint="Sweep norm_batch_size over 16, 32 and 64; the optimizer's batch stays what it is.",
    evidence=("ghost", "ghost_smoothness"),
)
SYNC_BN = Recommendation(
    norm="bn",
    form="synchronized over the devices",
    because="Take the statistics over the images of all devices (torch.nn.SyncBatchNorm). On one device NormBench's "
    "bn at the total batch size computes the same.",
    also=("gn+ws",),
    avoid=(("bn", "not synchronized: 2 images per device cost it 11 points in the first result above"),),
    hint="If communication costs too much, take gn+ws instead.",
    evidence=("sn_batches", "sn_small"),
)
GN_WS = Recommendation(
    norm="gn+ws",
    options={"group_size": 16},
    because="GN does not look at the batch, and weight standardization narrows or closes its gap to BN.",
    also=("gn", "sn", "evonorm_s0"),
    avoid=SMALL_BATCH_AVOID,
    hint=REGULARIZE,
    evidence=(
        "own_sweep",
        "own_batch_one",
        "own_costs",
        "gn_sweep",
        "gn_ws",
        "gn_ws_bars",
        "gn_renorm",
        "eval_gap",
        "gn_regularization",
    ),
)
EVONORM = Recommendation(
    norm="evonorm_s0",
    options={"group_size": 16},
    model="preact_resnet18",
    because="Its accuracy does not depend on the batch, and a pre-activation net is the place it was made for.",
    also=("gn+ws", "gn", "frn"),
    avoid=SMALL_BATCH_AVOID,
    hint="Give frn a learning-rate warm-up if you compare it.",
    evidence=("evonorm_batches", "evonorm_preact", "evonorm_timm", "gn_sweep", "frn_recipe"),
)
LN2D = Recommendation(
    norm="ln2d",
    because="Nets of this kind were designed around few norms over the channels of each position.",
    also=("rms2d", "dyt"),
    avoid=(("ln", "LN put straight into a classic ResNet is not optimal"),),
    hint="NormBench has no ConvNeXt: the command below only compares the norms on a ResNet.",
    evidence=("convnext", "dyt_convnext"),
)
NO_NORM = Recommendation(
    norm="none",
    options={"init": "fixup"},
    model="preact_resnet18",
    because="Without norms a residual net must start as a sum of quiet branches: Fixup and SkipInit do that by "
    "initialization.",
    also=("none+sws",),
    avoid=(("none", "with the default start, in deep nets: the signal grows with each block"),),
    hint="Use strong augmentation and clip gradients; try init=skipinit too.",
    evidence=("skipinit", "fixup", "nfnet", "cifar_none"),
)
TRANSFER = Recommendation(
    norm="gn+ws",
    options={"groups": 32},
    because="Running statistics of one data set do not fit the next; GN with weight standardization has none.",
    also=("bn",),
    avoid=(("bn", "its running statistics belong to the first data set"),),
    hint=REGULARIZE,
    evidence=("bit", "gn_ws"),
)
DOMAIN_SHIFT = Recommendation(
    norm="ibn",
    because="Half of the channels drop an image's style, the other half keep what tells classes apart.",
    also=("bin", "bn"),
    avoid=(("in", "alone it costs 4.8 points on ImageNet against BN"),),
    hint=TUNE,
    evidence=("ibn", "bin", "gn_all_norms"),
)
CORRUPTED = Recommendation(
    norm="bn",
    form="statistics taken anew from the test images",
    because="If test images come in batches, BN can take its statistics from them anew, which wins back much.",
    also=("bn_nostats", "gn"),
    avoid=(("bn_nostats", "with single test images: its output would depend on one image"),),
    hint="Judge on corrupted images, with and without new statistics; bn_nostats always takes those of the test batch.",
    evidence=("adapt_statistics", "adapt_few"),
)
STREAMING = Recommendation(
    norm="gn",
    options={"group_size": 16},
    because="Related samples in one batch make its statistics misleading; GN treats each sample by itself.",
    also=("evonorm_s0", "frn", "gn+ws"),
    avoid=(("bn", "its batch statistics pass information between samples"), ("sn", "a part of it is BN")),
    hint=REGULARIZE,
    evidence=("batch_leaks", "gn_sweep"),
)
PRIVATE = Recommendation(
    norm="gn",
    options={"group_size": 16},
    because="Per-sample gradients need samples that do not meet: GN keeps them apart, BN does not.",
    also=("ln", "none"),
    avoid=(("bn", "its statistics mix samples, and its buffers change in place"),),
    hint="For a shallow net compare with no norm at all.",
    evidence=("per_sample_gradients", "opacus", "cifar_none"),
)
FEDERATED = Recommendation(
    norm="gn",
    options={"group_size": 16},
    because="With very different clients or frequent averaging GN is the safer choice; with similar clients BN can "
    "win.",
    also=("ln", "bn"),
    avoid=(("bn", "when clients differ a lot: their statistics cannot be averaged"),),
    hint="The two studies disagree: compare on your own split.",
    evidence=("federated_gn", "federated_bn"),
)
PROBE = Recommendation(
    norm="sn",
    because="Switchable Norm learns how much of IN, LN and BN each layer wants. Use it as a probe, then fix the "
    "choice.",
    also=("bn", "gn", "in"),
    avoid=(("sn", "in production: three sets of statistics in every layer"),),
    hint="Read its learned weights after training, layer by layer.",
    evidence=("sn_small",),
)
DETECTION_SYNC_BN = Recommendation(
    norm="bn",
    form="synchronized over the devices (SyncBN)",
    model="norm_resnet",
    because="With 16 or more images over all devices, statistics taken over all of them (torch.nn.SyncBatchNorm) keep "
    "the weights that BN was pre-trained with, and are ahead of frozen BN.",
    also=("gn", "gn+ws"),
    avoid=(
        ("bn", "not synchronized: statistics over the few images of one device"),
        ("frozen_bn", "0.9 box AP behind SyncBN; it is the fastest and takes the least memory"),
    ),
    hint="A backbone pre-trained with GN was ahead still: compare both. On one device NormBench's bn at the total "
    "batch size computes what SyncBN does.",
    evidence=("own_sweep", "detectron2_norms", "megdet", "sn_batches"),
)
DETECTION_GN = Recommendation(
    norm="gn",
    options={"groups": 32},
    model="norm_resnet",
    because="GN is as good with two images per device as with 32, in the backbone and in the heads. Start from a "
    "backbone pre-trained with GN; weights pre-trained with BN do not carry over to it.",
    also=("gn+ws",),
    avoid=(
        *SMALL_BATCH_AVOID,
        ("frozen_bn", "1.1 to 1.7 box AP behind GN; the way out where the backbone's BN weights must stay"),
    ),
    hint="NormBench trains classifiers: at this batch size norm_resnet shows what BN loses and GN does not.",
    evidence=("own_sweep", "own_costs", "gn_detection", "gn_detection_costs", "detectron2_norms", "gn_sweep", "gn_ws"),
)
DETECTION_BN = Recommendation(
    norm="bn",
    because="With 16 or more images per device BN's statistics are good, and pre-trained weights go on as they are.",
    also=("gn", "gn+ws"),
    avoid=(("frozen_bn", "it is for batches too small to update BN"),),
    hint=TUNE,
    evidence=("own_recipe", "own_sweep", "gn_sweep", "megdet"),
)
STYLE = Recommendation(
    norm="in",
    model="stylenet",
    because="The output's contrast must not depend on the content image's: IN removes it, image by image. Lower losses "
    "are no reason: in our comparison IN's style loss was below BN's, its content loss and the weighted sum above.",
    also=("bn", "gn"),
    avoid=(("bn", "mixes the contrasts of the images of a batch, and evaluation differs from training"),),
    hint="Judge by eye: change the contrast of the content image and look at the result.",
    evidence=("own_style", "instance_style"),
)
SAMPLING = Recommendation(
    norm="gn",
    options={"group_size": 16},
    because="A generated image must not depend on the others of its batch, and GN is the same in training and "
    "sampling.",
    also=("ln2d", "rms2d"),
    avoid=(("bn", "samples of one batch influence each other"),),
    hint="This rests on independence from the batch; the results below are for classification.",
    evidence=("batch_leaks", "gn_sweep"),
)
SEQUENCE = Recommendation(
    norm="ln",
    model="vit",
    because="Each token is normalized by itself over its features, whatever the length and the padding. In our small "
    "vision transformer, whose sequences are equally long, LN was not ahead of a network without norms.",
    also=("rms", "dyt", "derf"),
    avoid=(("bn", "its statistics mix sequences, and padding with them"),),
    hint="Try it with `model.options.pre_norm` true and false: norms before attention tolerate other rates than norms "
    "after it.",
    evidence=("own_transformer", "dyt_vit", "derf_vit"),
)


_IMAGES_PER_STEP = "How many images does one device see per step?"


def _by_batch_size(small: Question | Recommendation) -> Question:
    return Question(
        name="batch-size",
        asks=_IMAGES_PER_STEP,
        is_number=True,
        branches=(
            Branch(answer="1-4", label="1 to 4", up_to=4, then=small),
            Branch(answer="5-15", label="5 to 15", up_to=15, then=BN_OR_GN),
            Branch(answer="16-1023", label="16 to 1023", up_to=1023, then=BN),
            Branch(answer="1024+", label="1024 or more", then=GHOST),
        ),
    )


def _distributed(yes: Recommendation, no: Recommendation) -> Question:
    return Question(
        name="distributed",
        asks="Do several devices train together, with 16 or more images in total?",
        branches=(
            Branch(answer="yes", label="several devices, 16 or more images in total", then=yes),
            Branch(answer="no", label="one device, or fewer images", then=no),
        ),
    )


def _detection(few: Question | Recommendation) -> Question:
    return Question(
        name="batch-size",
        asks=_IMAGES_PER_STEP,
        is_number=True,
        branches=(
            Branch(answer="1-15", label="1 to 15", up_to=15, then=few),
            Branch(answer="16+", label="16 or more", then=DETECTION_BN),
        ),
    )


_ARCHITECTURE = Question(
    name="architecture",
    asks="What kind of network is it?",
    branches=(
        Branch(
            answer="resnet",
            label="a classic convolutional net: convolution, norm, ReLU",
            then=_by_batch_size(_distributed(SYNC_BN, GN_WS)),
        ),
        Branch(answer="preact", label="a pre-activation residual net", then=_by_batch_size(EVONORM)),
        Branch(answer="convnext", label="a modern net of few norms, GELU and AdamW, as ConvNeXt", then=LN2D),
        Branch(answer="no-norm", label="a net that must do without norms", then=NO_NORM),
    ),
)
_DATA = Question(
    name="data",
    asks="How do the images come?",
    branches=(
        Branch(answer="iid", label="shuffled, and tested on the same kind", then=_ARCHITECTURE),
        Branch(answer="transfer", label="pre-training at scale, then transfer to other data", then=TRANSFER),
        Branch(answer="shifted", label="tested on other styles or domains", then=DOMAIN_SHIFT),
        Branch(answer="corrupted", label="tested on corrupted images, in batches", then=CORRUPTED),
        Branch(answer="streaming", label="in order, related to each other", then=STREAMING),
        Branch(answer="private", label="with per-sample gradients (differential privacy)", then=PRIVATE),
        Branch(answer="federated", label="on clients that do not share them", then=FEDERATED),
        Branch(answer="unknown", label="no idea", then=PROBE),
    ),
)
TREE = Question(
    name="task",
    asks="What is the network for?",
    branches=(
        Branch(answer="classification", label="classifying images", then=_DATA),
        Branch(
            answer="detection",
            label="detecting or segmenting objects",
            then=Question(
                name="pretrained",
                asks="Is the backbone pre-trained with BN?",
                branches=(
                    Branch(
                        answer="yes",
                        label="pre-trained with BN",
                        then=_detection(_distributed(DETECTION_SYNC_BN, DETECTION_GN)),
                    ),
                    Branch(
                        answer="no",
                        label="from scratch, or pre-trained with another norm",
                        then=_detection(DETECTION_GN),
                    ),
                ),
            ),
        ),
        Branch(answer="style", label="style transfer", then=STYLE),
        Branch(answer="sequence", label="sequences: language, time series, a vision transformer", then=SEQUENCE),
        Branch(
            answer="generation",
            label="generating images",
            then=Question(
                name="source",
                asks="What does the generator start from?",
                branches=(
                    Branch(answer="image", label="another image (image to image)", then=STYLE),
                    Branch(answer="noise", label="noise or a code", then=SAMPLING),
                ),
            ),
        ),
    ),
)
