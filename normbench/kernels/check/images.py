"""Check and time the convolution of images, for `normbench.kernels.check`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from normbench.kernels.check.cases import relative_errors
from normbench.kernels.check.timing import graph_us
from normbench.kernels.image_conv import convolve, weight_gradient

CHANNELS_OUT = 64
SHAPES = ((64, 3, 32, 32, 64), (1024, 3, 32, 32, 64), (16, 3, 32, 32, 64), (5, 4, 7, 9, 96), (3, 1, 33, 17, 24))
"""Images, channels, height, width, output channels."""
TOLERANCE = 1e-2


def draw(n: int, channels: int, height: int, width: int, channels_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images in float32, and in bfloat16 a weight and an output gradient, all channels_last."""
    sizes = (n, channels, height, width), (channels_out, channels, 3, 3), (n, channels_out, height, width)
    images, weight, grad = (torch.randn(s, device="cuda").to(memory_format=torch.channels_last) for s in sizes)
    return images, weight.bfloat16(), grad.bfloat16()


def torch_gradient(grad: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weight alone, as torch computes it."""
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad, images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    return gradient


def check_images(result: dict[str, object]) -> bool:
    """Print the worst relative errors, against float64, and failures; return whether there was none."""
    worst: dict[str, float] = {}
    failures = []
    for shape in SHAPES:
        torch.manual_seed(0)
        images, weight, grad = draw(*shape)
        try:
            y, gradient, again = convolve(images, weight), *(weight_gradient(grad, images, weight) for _ in range(2))
        except Exception as error:  # the norms are still to be checked
            failures.append(f"image conv {shape}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
            continue
        wide = [t.bfloat16().double() for t in (images, weight, grad)]  # images are rounded first
        expected = functional.conv2d(wide[0], wide[1], padding=1), torch_gradient(wide[2], wide[0], wide[1])
        errors = relative_errors(("y", "dw"), (y, gradient), expected)
        worst = {name: max(error, worst.get(name, 0.0)) for name, error in errors.items()}
        if not all(error < TOLERANCE for error in errors.values()) or not torch.equal(gradient, again):
            failures.append(f"image conv {shape}: {errors}, gradient repeats: {torch.equal(gradient, again)}")
    print("image conv", *(f"{name} {error:.1e}" for name, error in worst.items()))
    print(f"{len(SHAPES)} cases, {len(failures)} failed", *failures, sep="\n  ")
    result["image_conv_errors"], result["image_conv_failures"] = worst, failures
    return not failures


def time_images(batch_sizes: list[int], result: dict[str, object]) -> None:
    """Print the times of NormResNet's first convolution: ours, and torch's with 3 channels and padded to 8."""
    rows: list[dict[str, object]] = []
    torch.backends.cudnn.benchmark = True
    side = torch.cuda.Stream()
    for batch_size in batch_sizes:
        for way, channels in (("ours", 3), ("torch", 3), ("torch", 8)):
            images, weight, grad = draw(batch_size, channels, 32, 32, CHANNELS_OUT)
            steps = {"forward": partial(convolve, images, weight), "dw": partial(weight_gradient, grad, images, weight)}
            if way == "torch":
                images = images.bfloat16()
                steps = {
                    "forward": partial(functional.conv2d, images, weight, padding=1),
                    "dw": partial(torch_gradient, grad, images, weight),
                }
            times = {name: graph_us(step, 20, side) for name, step in steps.items()}
            rows.append({"way": way, "channels": channels, "batch_size": batch_size, **times})
            cells = (f"{name} {time:6.1f}" for name, time in times.items())
            print(f"{batch_size:5d} image conv {way:5s} {channels} channels", *cells, sep=" | ", flush=True)
    result["image_conv_us"] = rows
