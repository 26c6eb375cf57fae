"""The optimizer of a captured step: all weights in one piece of memory, updated by one kernel.

The kernel reads each gradient where autograd left it (`gradient_addresses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normbench.config.schema import TrainConfig
from normbench.engine.gradient_addresses import GradientAddresses, readable
from normbench.engine.lookahead import SLOW_WEIGHT
from normbench.kernels.conv import GradientShares
from normbench.kernels.train_step import UPDATE_BLOCK, Blocks, update_adam, update_sgd

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class FlatOptimizer:
    """Adam, AdamW or SGD with Nesterov's momentum; the same arithmetic as torch's, the same names of the state.

    No `torch.optim.Optimizer`, because making one imports torch's compiler, which takes seconds.

    Moves the parameters, without changing them, into memory of its own. `step` takes the gradients of the bf16 copies,
    or of the parameters that have none, and the learning rate of the step from the schedule on the device.

    Args:
        groups: parameter groups with `params`, `weight_decay` and `learning_rate_factor`, all float32.
        train: which optimizer, and its momentum.
        learning_rates: float32 ``(steps,)`` on the parameters' device.
        num_steps: int64 scalar on the device: the steps begun, this one included.
        decays: like `learning_rates`: those of slow weights, if there are any (`normbench.engine.lookahead`).
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        train: TrainConfig,
        learning_rates: Tensor,
        num_steps: Tensor,
        decays: Tensor | None = None,
    ) -> None:
        self.param_groups = list(groups)
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        device = learning_rates.device
        self.name = train.optimizer
        self._momentum = train.momentum
        self._learning_rates = learning_rates
        self._num_steps = num_steps
        self._decays = decays
        steps = torch.arange(1, len(learning_rates) + 1, dtype=torch.float64)
        corrections = torch.stack([1 - _BETAS[0] ** steps, (1 - _BETAS[1] ** steps).sqrt()], dim=1)
        self._corrections = corrections.to(device, torch.float32)

        # Whose gradient each parameter takes: its own or its bf16 copy's. All tables are in this order.
        self._leaves: dict[nn.Parameter, Tensor] = {p: p for group in self.param_groups for p in group["params"]}
        self._copies: dict[nn.Parameter, Tensor] = {}
        self._shares: dict[nn.Parameter, GradientShares] = {}
        self._rows: dict[nn.Parameter, slice] = {}
        places, settings, num_blocks = [], [], 0
        for group in self.param_groups:
            for parameter in group["params"]:
                count = parameter.numel()
                starts = range(0, count, UPDATE_BLOCK)
                places += [(start, count) for start in starts]
                settings += [(group["learning_rate_factor"], group["weight_decay"])] * len(starts)
                self._rows[parameter] = slice(num_blocks, num_blocks + len(starts))
                num_blocks += len(starts)
        self._blocks = Blocks(
            copies=torch.zeros(num_blocks, dtype=torch.int64, device=device),
            places=torch.tensor(places, dtype=torch.int32, device=device),
            settings=torch.tensor(settings, dtype=torch.float32, device=device),
        )
        self._addresses = GradientAddresses([rows.stop - rows.start for rows in self._rows.values()], device)

        names = ("momentum_buffer",) if train.optimizer == "sgd" else ("exp_avg", "exp_avg_sq")
        self._weights, *self._moments = (torch.zeros(num_blocks * UPDATE_BLOCK, device=device) for _ in ("", *names))
        self._slow = None if decays is None else torch.zeros_like(self._weights)
        for parameter, rows in self._rows.items():
            start = rows.start * UPDATE_BLOCK
            view = _view(self._weights, parameter, start)
            view.copy_(parameter.detach())
            parameter.data = view
            self.state[parameter] = {n: _view(m, parameter, start) for n, m in zip(names, self._moments, strict=True)}
            if self._slow is not None:
                self.state[parameter][SLOW_WEIGHT] = _view(self._slow, parameter, start).copy_(parameter.detach())

    @property
    def has_slow_weights(self) -> bool:
        """Whether there are slow weights beside those that are trained."""
        return self._slow is not None

    def bf16_copy(self, parameter: nn.Parameter) -> Tensor:
        """Return a new bf16 copy of `parameter`, to compute with: `step` takes its gradient and keeps it up to date."""
        copy = parameter.detach().to(torch.bfloat16, copy=True)
        self._blocks.copies[self._rows[parameter]] = copy.data_ptr()
        self._copies[parameter] = copy
        if copy.ndim == 4:  # a convolution's, which need not sum what its programs have summed apart
            shares = copy.gradient_shares = GradientShares()  # type: ignore[attr-defined]
            self._shares[parameter] = shares
        self._leaves[parameter] = copy.requires_grad_()
        return copy

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master weights to their bf16 copies: needed after anything but `step` has changed them."""
        for parameter, copy in self._copies.items():
            copy.copy_(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, whatever `set_to_none`."""
        for leaf in self._leaves.values():
            leaf.grad = None
        for shares in self._shares.values():
            shares.tensor = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights, their bf16 copies and the state; a parameter without a gradient has one of zeros."""
        gradients = [readable(leaf) for leaf in self._leaves.values()]  # copies live until the kernel is launched
        self._addresses.locate(gradients, [self._shares_of(parameter) for parameter in self._leaves])
        self.update()

    def _shares_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the shares in which a convolution left its weight's gradient, with that of another use as one more."""
        sink, gradient = self._shares.get(parameter), self._leaves[parameter].grad
        if sink is None or sink.tensor is None:
            return None
        if gradient is not None:
            sink.add(gradient.float().permute(0, 2, 3, 1).unsqueeze(0))
        return sink.tensor

    def update(self) -> None:
        """Launch the update with the gradients located last."""
        if self.name == "sgd":
            update_sgd(
                self._weights, self._moments[0], self._addresses.tensor, self._addresses.num_shares, self._blocks,
                self._learning_rates, self._num_steps, self._slow, self._decays,
                momentum=self._momentum,
            )  # fmt: skip
        else:
            first, second = self._moments
            update_adam(
                self._weights, first, second, self._addresses.tensor, self._addresses.num_shares, self._blocks,
                self._learning_rates, self._corrections, self._num_steps, self._slow, self._decays,
                beta1=_BETAS[0], beta2=_BETAS[1], eps=_EPS, decoupled=self.name == "adamw",
            )  # fmt: skip

    def finish_capture(self) -> None:
        """Give the graph whose capture has just ended, with one `step` in it, the addresses of its gradients."""
        self._addresses.finish_capture()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters, by their position."""
        return {"state": {position: dict(state) for position, state in enumerate(self.state.values())}}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another run's optimizer, into the memory of this one."""
        for position, state in enumerate(self.state.values()):
            for name, place in state.items():
                place.copy_(state_dict["state"][position][name])


def _view(flat: Tensor, parameter: Tensor, start: int) -> Tensor:
    """Return the part of `flat` from `start` on in the shape and memory format of `parameter`."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset() + start)
