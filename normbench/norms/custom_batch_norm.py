"""BatchNorm written out from its formula, for reading. `bn` is the fast one."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.precision import require_several_values, widen


class CustomBatchNorm(nn.Module):
    """Batch Normalization (Ioffe & Szegedy 2015, arXiv 1502.03167), step by step; equal to `torch.nn.BatchNorm2d`."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        # Learned: a scale and a shift per channel. At first they change nothing.
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        # Remembered for evaluation, not learned: buffers are saved with the weights, the optimizer leaves them alone.
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on one value per channel."""
        num_samples, num_channels, height, width = x.shape
        values = widen(x)  # at least float32, whatever the input
        if self.training:
            num_values = num_samples * height * width  # per channel
            require_several_values("custom_bn", num_values, x)

            # 1. The mean of each channel over the samples and both image axes: (N, C, H, W) -> (C,)
            mean = values.mean(dim=(0, 2, 3))

            # 2. The mean squared distance from it: the biased variance, with num_values in the denominator
            distance = values - mean.view(1, num_channels, 1, 1)
            variance = (distance**2).mean(dim=(0, 2, 3))

            # 3. Remember both for evaluation: 90 % old + 10 % new. What is kept is the unbiased variance, with
            #    num_values - 1 in the denominator. No gradient flows here.
            with torch.no_grad():
                unbiased_variance = variance * num_values / (num_values - 1)
                self.running_mean.copy_((1 - self.momentum) * self.running_mean + self.momentum * mean)
                self.running_var.copy_((1 - self.momentum) * self.running_var + self.momentum * unbiased_variance)
        else:
            # In evaluation the batch at hand does not matter: use what training remembered.
            mean, variance = self.running_mean, self.running_var
            distance = values - mean.view(1, num_channels, 1, 1)

        # 4. Normalize: mean 0, variance 1. eps keeps a constant channel from dividing by 0.
        normalized = distance / torch.sqrt(variance.view(1, num_channels, 1, 1) + self.eps)

        # 5. Scale and shift, so that the layer can also learn not to normalize.
        y = normalized * self.weight.view(1, num_channels, 1, 1) + self.bias.view(1, num_channels, 1, 1)
        return y.to(x.dtype)
