"""The largest eigenvalue of the loss's Hessian, by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.engine.probes.moment import Moment, dot, norm_of
from normbench.runs.probe_files import CurvatureRow


class CurvatureProbe:
    """The Hessian's eigenvalue of the largest magnitude, which limits gradient descent's stable step sizes.

    Power iteration on Hessian-vector products (Pearlmutter 1994, "Fast Exact Multiplication by the Hessian"; used so by
    Yao et al. 2020, PyHessian, arXiv 1912.07145): v <- H v / |H v| from a random v, with the Rayleigh quotient v'Hv for
    |v| = 1. A product is the derivative of the gradient's inner product with v, exact to rounding. It ends when the
    residual |Hv - (v'Hv) v| / |v'Hv| is at most the tolerance, or after as many products as are allowed; the row says
    which. As H is symmetric, an eigenvalue lies within that share of the quotient. It may be negative.

    H is that of the loss of the training batch that the next step takes.
    """

    name = "curvature"

    def __init__(self, every: int, iterations: int, tolerance: float) -> None:
        self.every = every
        self._iterations = iterations
        self._tolerance = tolerance

    def measure(self, moment: Moment) -> CurvatureRow:
        """Return the eigenvalue and how well it converged."""
        leaves = [p.detach().requires_grad_() for p in moment.parameters.values()]
        gradient = torch.autograd.grad(
            moment.loss(leaves), leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )

        def product(vector: list[Tensor]) -> list[Tensor]:
            found = torch.autograd.grad(
                gradient, leaves, vector, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return list(found)

        vector = _unit([_random_like(leaf, number) for number, leaf in enumerate(leaves)])
        eigenvalue, residual, is_converged, count = 0.0, 0.0, False, 0
        while count < self._iterations and not is_converged:
            count += 1
            image = product(vector)
            quotient = dot(vector, image)
            rest = norm_of(torch._foreach_sub(image, torch._foreach_mul(vector, quotient)))
            eigenvalue, residual = torch.stack([quotient, rest / quotient.abs()]).tolist()
            is_converged = residual <= self._tolerance
            vector = _unit(image)
        return CurvatureRow(
            step=moment.step, eigenvalue=eigenvalue, iterations=count, residual=residual, is_converged=is_converged
        )


def _unit(vector: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_div(vector, norm_of(vector)))


def _random_like(tensor: Tensor, seed: int) -> Tensor:
    """Return standard normal numbers in the shape of `tensor`, the same on every device."""
    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(tensor.device, tensor.dtype)
