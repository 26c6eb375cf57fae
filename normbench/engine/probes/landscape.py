"""The loss and its gradient along the gradient: how far ahead a step can trust what it sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normbench.engine.probes.moment import Moment, dot, norm_of
from normbench.runs.probe_files import LandscapeRow


class LandscapeProbe:
    """The measurements of Santurkar et al. 2018 (arXiv 1805.11604, section 3.1 and figure 4), on one batch.

    With loss L, weights w, gradient g = grad L(w) and, for each step size e, the point w_e = w - e g:

    - losses: L(w_e), of which least and greatest, with L(w), are the ends of the paper's band;
    - gradient predictiveness: the distance |grad L(w_e) - g| and the cosine between both gradients;
    - effective smoothness: the largest |grad L(w_e) - g| / |w_e - w|, where |w_e - w| = e |g|.

    All norms are Euclidean, over all weights together. L is the loss of the training batch that the next step takes.
    """

    name = "landscape"

    def __init__(self, every: int, step_sizes: Sequence[float]) -> None:
        self.every = every
        self._step_sizes = tuple(step_sizes)

    def measure(self, moment: Moment) -> LandscapeRow:
        """Return loss and gradient at the weights and at each point: one gradient more than there are step sizes."""
        weights = [p.detach() for p in moment.parameters.values()]
        loss, gradient = moment.value_and_gradient(weights)
        numbers = [loss, norm_of(gradient), norm_of(weights)]
        for size in self._step_sizes:
            there = torch._foreach_add(weights, gradient, alpha=-size)
            numbers += _compared(*moment.value_and_gradient(there), gradient)
        loss_here, gradient_norm, weight_norm, *rest = torch.stack(numbers).tolist()
        return LandscapeRow(
            step=moment.step,
            loss=loss_here,
            gradient_norm=gradient_norm,
            weight_norm=weight_norm,
            step_sizes=self._step_sizes,
            losses=tuple(rest[0::3]),
            gradient_distances=tuple(rest[1::3]),
            cosines=tuple(rest[2::3]),
        )


def _compared(loss: Tensor, gradient: list[Tensor], reference: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and the distance and cosine of its gradient to `reference`."""
    distance = norm_of(torch._foreach_sub(gradient, reference))
    return loss, distance, dot(gradient, reference) / (norm_of(gradient) * norm_of(reference))
