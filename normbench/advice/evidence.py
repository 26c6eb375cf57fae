"""The evidence that the advice rests on: published results, each with its source and how it was read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Evidence:
    """One result. `basis` is how it was read: in the text or code of the source, its abstract, or off a plot."""

    text: str
    source: str
    basis: Literal["text", "abstract", "plot"] = "text"


_GN_PAPER = "Wu & He 2018, arXiv 1803.08494"
_SN_README = "README of the Switchable Normalization code (arXiv 1806.10779)"

EVIDENCE: Mapping[str, Evidence] = MappingProxyType(
    {
        "own_tutorial": Evidence(
            "NormBench, CIFAR-10, NormResNet, batch 64, one learning rate for all, 10 seeds, test accuracy in %: BN "
            "72.67 ± 0.95, GN 68.36 ± 0.77, LN as GroupNorm(1, C) 67.94 ± 0.74, IN 64.74 ± 0.62.",
            "docs/results/tutorial.md",
        ),
        "own_batch_16": Evidence(
            "NormBench, CIFAR-10, NormResNet, batch 16, one learning rate for all, 3 seeds, test accuracy in %: GN+WS "
            "75.93 ± 1.10, BN 74.58 ± 0.48, EvoNorm-S0 74.50 ± 0.55, FRN 70.80 ± 1.01, GN 69.31 ± 1.46.",
            "docs/results/batch_size.md",
        ),
        "own_recipe": Evidence(
            "NormBench, CIFAR-10, ResNet-9, batch 128, each norm at the best of six learning rates, 5 seeds, test "
            "accuracy in %: BN 94.16 ± 0.21, GN+WS 93.18 ± 0.33, LN as GroupNorm(1, C) 92.90 ± 0.20, GN "
            "92.75 ± 0.18, IN 92.55 ± 0.14.",
            "docs/results/accuracy.md",
        ),
        "own_speedrun": Evidence(
            "NormBench, CIFAR-10, SpeedNet, batch 1024, each norm at the best of six learning rates, 20 seeds, test "
            "accuracy in %: BN 93.52 ± 0.06, GN+WS 92.08 ± 0.10, EvoNorm-S0 90.72 ± 0.15, GN 90.40 ± 0.18, IN "
            "90.11 ± 0.08, LN as GroupNorm(1, C) 90.04 ± 0.12, FRN 89.11 ± 0.15.",
            "docs/results/speedrun.md",
        ),
        "own_sweep": Evidence(
            "NormBench, CIFAR-10, NormResNet, a short training on 10,000 images, one learning-rate rule for all norms, "
            "3 seeds, test accuracy in % at batch 16, 8, 4, 2, 1: BN 52.37, 52.50, 50.66, 47.55, 15.48; GN 43.45, "
            "44.43, 44.00, 45.13, 45.92; GN+WS 55.30, 55.10, 55.13, 54.78, 55.37; LN as GroupNorm(1, C) 42.21, "
            "41.56, 41.44, 42.91, 43.38.",
            "docs/results/batch_size.md",
        ),
        "own_batch_one": Evidence(
            "NormBench, CIFAR-10, NormResNet, 2,000 steps on one image each, 5 seeds, test accuracy in %: GN+WS "
            "34.12 ± 3.30, EvoNorm-S0 28.29 ± 3.17, GN 23.86 ± 4.13, LN as GroupNorm(1, C) 23.52 ± 3.84, no norm "
            "23.09 ± 3.29, IN 14.04 ± 4.42, BN 13.75 ± 2.18.",
            "docs/results/batch_one.md",
        ),
        "own_costs": Evidence(
            "NormBench, NormResNet, batch 64, one H200 in bf16, milliseconds per training step: none 0.127, IN 0.162, "
            "GN 0.171, EvoNorm-S0 0.188, BN 0.192, LN 0.193.",
            "docs/performance.md",
        ),
        "own_transformer": Evidence(
            "NormBench, CIFAR-10, a vision transformer of six blocks, batch 256, one learning rate for all, 3 seeds, "
            "test accuracy in %, norms before attention and FFN: no norm 76.16 ± 0.54, Derf 73.29 ± 0.84, DyT "
            "72.79 ± 0.85, BN 65.55 ± 4.10, RMSNorm 65.21 ± 1.16, LN 65.04 ± 1.34; after the addition: BN "
            "78.51 ± 0.44, RMSNorm 75.79 ± 1.69, LN 75.68 ± 1.93, Derf 63.97 ± 1.44, DyT 60.00 ± 1.61.",
            "docs/results/transformer.md",
        ),
        "gn_sweep": Evidence(
            "ImageNet, ResNet-50, top-1 error in % at 32, 16, 8, 4, 2 images per GPU: BN 23.6, 23.7, 24.8, 27.3, 34.7; "
            "GN 24.1, 24.2, 24.0, 24.2, 24.1.",
            _GN_PAPER,
        ),
        "gn_all_norms": Evidence(
            "ImageNet, ResNet-50, 32 images per GPU, top-1 error in %: BN 23.6, GN 24.1, LN as GroupNorm(1, C) 25.3, "
            "IN 28.4.",
            _GN_PAPER,
        ),
        "gn_renorm": Evidence(
            "ImageNet, ResNet-50, 4 images per GPU, top-1 error in %: BN 27.3, Batch Renormalization 26.3, GN 24.2.",
            _GN_PAPER,
        ),
        "gn_detection": Evidence(
            "COCO detection: GN gains 1.1 box AP over frozen BN (C4 backbone), up to 2.2 on a long schedule.", _GN_PAPER
        ),
        "gn_detection_costs": Evidence(
            "COCO, Mask R-CNN, R50-FPN, 2 images per GPU, 2x schedule: frozen BN 38.6 box AP, 0.897 s per step, 8.6 "
            "GB; GN in backbone, FPN and heads 40.3 box AP, 1.017 s, 10.5 GB.",
            "README of Detectron, projects/GN",
        ),
        "detectron2_norms": Evidence(
            "COCO, Mask R-CNN, R50-FPN, 8 GPUs with 2 images each, 3x schedule, box AP, seconds per step, GB per GPU: "
            "frozen BN 41.0, 0.261, 3.4; SyncBN from a BN backbone 41.9, 0.371, 5.5; GN from a GN backbone 42.6, "
            "0.356, 7.3; GN from scratch 39.9, 0.400, 9.8. Frozen BN has the smaller head.",
            "facebookresearch/detectron2, MODEL_ZOO.md",
        ),
        "megdet": Evidence(
            "COCO detection with up to 128 GPUs: BN synchronized across GPUs lets a detector train with 256 images per "
            "step, faster and more accurately than with 16.",
            "Peng et al. 2018 (MegDet), arXiv 1711.07240",
            "abstract",
        ),
        "gn_regularization": Evidence(
            "CIFAR-10, ResNet, 400 epochs: GN(8) reaches 7.3 % test error at a training error near 0, about 1.3 points "
            "behind BN; explained there by the small data set, which needs more regularization.",
            "ppwwyyxx/GroupNorm-reproduce, Cifar10-ResNet-TensorFlow",
        ),
        "sn_batches": Evidence(
            "ImageNet, ResNet-50, the same 16 images: top-1 accuracy of BN 76.2 % on one GPU, 65.3 % as 2 on each of "
            "8.",
            _SN_README,
        ),
        "sn_small": Evidence(
            "ImageNet, ResNet-50, 8 GPUs with 2 images each, top-1 accuracy in %: BN 65.3, GN 75.9, SN 75.6; with 32 "
            "images each: BN 76.4, GN 75.9, SN 76.9.",
            _SN_README,
        ),
        "gn_ws": Evidence(
            "ImageNet with 1 image per GPU: GN+WS has 23.72 % top-1 error with ResNet-50 and 22.10 % with ResNet-101.",
            "README of the Weight Standardization code (arXiv 1903.10520)",
        ),
        "gn_ws_bars": Evidence(
            "ImageNet top-1 accuracy in %: ResNet-50 GN 75.2, BN 75.7, GN+WS 76.3; ResNet-101 75.2, 77.6, 77.9.",
            "Weight Standardization, arXiv 1903.10520",
            "plot",
        ),
        "bit": Evidence(
            "Big Transfer pre-trains at scale with standardized convolutions and GN(32).",
            "code of Big Transfer (BiT), bit_pytorch/models.py",
        ),
        "cifar_resnet20": Evidence(
            "CIFAR-10, ResNet-20, batch 128, test accuracy in % at the best epoch: BN 92.2 (sd 0.22, 5 runs), GN 90.3, "
            "IN 90.4, LN 87.4 (1 run each).",
            "code of Online Normalization (arXiv 1905.05894), ExpReproducibility.md",
        ),
        "cifar_batch8": Evidence(
            "CIFAR-10, ResNet-14, one run each: BN shows no loss at batch 8 (stopped after 60 of 100 epochs) against "
            "batch 128, which surprised the author and was left open.",
            "HarmanDotpy's report on normalization for CIFAR-10",
            "plot",
        ),
        "cifar_none": Evidence(
            "CIFAR-10, ResNet-14, test accuracy in %: BN 87.8 to 87.9, GN 85.8, IN 84.7, LN 84.9, no norm 84.9.",
            "HarmanDotpy's report on normalization for CIFAR-10",
        ),
        "speed_runs": Evidence(
            "The fastest CIFAR-10 trainings use BN with its scale frozen at 1.", "code of airbench and hlb-CIFAR10"
        ),
        "evonorm_batches": Evidence(
            "ImageNet, ResNet-50, 8 workers, top-1 accuracy in % at 128 and 4 images each: BN 76.1, 70.7; GN 75.4, "
            "75.7; EvoNorm-S0 77.4, 77.5.",
            "Liu et al. 2020, arXiv 2004.02967, figure 1",
            "plot",
        ),
        "evonorm_preact": Evidence(
            "The official code refuses EvoNorm unless the ResNet is pre-activation.", "tensorflow/tpu, resnet_model.py"
        ),
        "evonorm_timm": Evidence(
            "ImageNet, ResNetV2-50d at 288 pixels, modern recipe, top-1 accuracy in %: GN 82.0, EvoNorm-S0 82.0.",
            "timm, results-imagenet.csv",
        ),
        "frn_recipe": Evidence(
            "ImageNet, ResNet-50 with the usual blocks, top-1 error in %: BN 23.6, FRN 24.0; with a cosine schedule "
            "23.0, 23.2. FRN's gain did not carry over.",
            "ppwwyyxx/FRN-on-common-ImageNet-baseline, README",
        ),
        "eval_gap": Evidence(
            "At batch 2 on ImageNet, correcting only the statistics of evaluation gains 6.18 points.",
            "EvalNorm, arXiv 1904.06031",
            "abstract",
        ),
        "ghost": Evidence(
            "Ghost BN helps with small and medium batches too, not only with large ones.",
            "Summers & Dinneen 2019, arXiv 1906.03548",
            "abstract",
        ),
        "ghost_smoothness": Evidence(
            "GhostNorm makes the loss less smooth and yet generalizes better.",
            "Dimitriou & Arandjelovic 2020, arXiv 2007.08554",
            "abstract",
        ),
        "convnext": Evidence(
            "ConvNeXt on ImageNet, top-1 accuracy in %: BN 81.4, LN over channels 81.5; LN put straight into the "
            "original ResNet is not optimal.",
            "Liu et al. 2022, arXiv 2201.03545",
        ),
        "dyt_convnext": Evidence(
            "ImageNet top-1 accuracy in %: ConvNeXt-B LN 83.7, DyT 83.7; ConvNeXt-L LN 84.3, DyT 84.4.",
            "README of the DyT code (arXiv 2503.10622)",
        ),
        "dyt_vit": Evidence(
            "ImageNet top-1 accuracy in %: ViT-B LN 82.3, DyT 82.5; ViT-L LN 83.1, DyT 83.6.",
            "README of the DyT code (arXiv 2503.10622)",
        ),
        "derf_vit": Evidence(
            "ImageNet top-1 accuracy in %: Derf 82.8 with ViT-B, 83.8 with ViT-L; no result for convolutional nets.",
            "README of the Derf code (arXiv 2512.10938)",
        ),
        "own_style": Evidence(
            "NormBench, CIFAR-10 at 64x64, style mosaic, features of a ResNet-9, 1,000 steps, 3 seeds: with 40 % of "
            "its contrast an image changes the output by 8.1 ± 5.1 % with IN, 57.9 ± 3.2 % with BN, 48.3 ± 18.0 % with "
            "GN; style loss IN 0.5308 ± 0.0242, BN 0.5944 ± 0.0049; content loss IN 0.2497 ± 0.0262, BN 0.1437 ± "
            "0.0130; weighted sum IN 0.7883 ± 0.0053, BN 0.7459 ± 0.0134, no norm 0.7134 ± 0.0079.",
            "docs/results/style.md",
        ),
        "instance_style": Evidence(
            "IN removes the contrast of the single image, in training and at test time.",
            "Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022",
        ),
        "ibn": Evidence(
            "ImageNet top-1 error in %, BN to IBN-a: ResNet-18 30.24 to 29.17, ResNet-50 24.27 to 22.54, ResNet-101 "
            "22.48 to 21.39.",
            "README of the IBN-Net code (arXiv 1807.09441)",
        ),
        "bin": Evidence(
            "CIFAR-10, ResNet-110, test accuracy in %: BN 93.72 ± 0.18, BIN 94.29 ± 0.09.",
            "code of Batch-Instance Normalization (arXiv 1805.07925)",
        ),
        "adapt_statistics": Evidence(
            "ImageNet-C, ResNet-50: 76.7 to 62.2 mCE (lower is better) by adapting BN's statistics to the corrupted "
            "images.",
            "Schneider et al. 2020, arXiv 2006.16971",
            "abstract",
        ),
        "adapt_few": Evidence(
            "ImageNet-C, ResNet-50: 39.2 to 48.7 % top-1 accuracy with BN statistics from a few images, 32 for "
            "example.",
            "Benz et al. 2020, arXiv 2010.03630",
            "abstract",
        ),
        "batch_leaks": Evidence(
            "What BN takes as its batch is a choice of design; statistics of the batch pass information between "
            "samples.",
            "Wu & Johnson 2021, arXiv 2105.07576",
        ),
        "per_sample_gradients": Evidence(
            "BN updates its running statistics in place, which functional per-sample transforms do not allow; GN is a "
            "way out.",
            "PyTorch documentation, Patching Batch Norm",
        ),
        "opacus": Evidence(
            "Opacus turns BN into GN with gcd(32, C) groups for differentially private training. With one value per "
            "channel, groups of one channel erase the data, which is what the issue is about.",
            "pytorch/opacus, issue 567",
        ),
        "federated_bn": Evidence(
            "Federated training: BN outperforms GN in many settings; the exceptions are very different clients and "
            "frequent communication.",
            "Zhong, Chen & Chao 2023, arXiv 2303.06530",
            "abstract",
        ),
        "federated_gn": Evidence(
            "Federated training on clients with different data: GN and LN consistently outperform BN.",
            "Casella et al. 2023, arXiv 2303.10630",
            "abstract",
        ),
        "skipinit": Evidence(
            "BN scales residual branches down by about the root of the depth; a learned scalar that starts at 0 does "
            "it without a norm.",
            "De & Smith 2020, arXiv 2002.10444",
            "abstract",
        ),
        "nfnet": Evidence(
            "ImageNet top-1 accuracy without norms, with scaled weight standardization: 83.6 % (NFNet-F0) to 86.0 % "
            "(F5).",
            "README of the NFNets code (arXiv 2102.06171)",
        ),
        "fixup": Evidence(
            "CIFAR-10, Wide ResNet with Fixup, mixup and cutout: 97.7 % without any norm.",
            "Zhang, Dauphin & Ma 2019, arXiv 1901.09321",
        ),
    }
)
