"""The effect of batching and padding on a sequence: its output under a norm, alone and beside other sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from normbench.models.transformer import TransformerBlock
from normbench.norms import SequenceNormFactory

D_MODEL = 32
N_HEAD = 4
LENGTHS = (5, 9, 12)
"""Tokens of the sequence that is watched, and of those beside it."""
PADDED_LENGTH = 16
TOLERANCE = 1e-5
"""Largest relative change that float32 rounding explains."""

Place = Callable[[torch.Tensor, Sequence[torch.Tensor]], list[torch.Tensor]]


def _padded(watched: torch.Tensor, _company: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [watched]


def _batched(watched: torch.Tensor, company: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [watched, *(other[: len(watched)] for other in company)]


def _batched_and_padded(watched: torch.Tensor, company: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [watched, *company]


SITUATIONS: Mapping[str, tuple[Place, int]] = {
    "padded": (_padded, PADDED_LENGTH),
    "batched": (_batched, LENGTHS[0]),
    "batched and padded": (_batched_and_padded, PADDED_LENGTH),
}
"""The sequences of a batch, the watched one first, and the length that all are padded to, by the situation's name."""


@dataclass(frozen=True)
class SequenceChange:
    """The change of a sequence's output that what it is batched and padded with makes.

    Changes are the largest over all its tokens and features, relative to the largest output; by situation.
    """

    norm: str
    full_name: str
    where: str
    """``"layer"``, or ``"block"``: a whole post-norm transformer block whose attention skips the padding."""
    in_training: Mapping[str, float]
    in_evaluation: Mapping[str, float]

    @property
    def is_independent(self) -> bool:
        """Whether rounding explains every change, in training and in evaluation."""
        return max(*self.in_training.values(), *self.in_evaluation.values()) <= TOLERANCE


def measure_sequences(factory: SequenceNormFactory, *, seed: int = 0) -> list[SequenceChange]:
    """Measure a sequence of random tokens in the norm's layer, and in a transformer block with it."""
    source = torch.Generator().manual_seed(seed)
    watched, *company = (torch.randn(length, D_MODEL, generator=source) for length in LENGTHS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, block = factory(D_MODEL), TransformerBlock(D_MODEL, N_HEAD, 4 * D_MODEL, norm=factory)
    runs: list[tuple[str, nn.Module, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = [
        ("layer", layer, lambda x, _is_token: layer(x)),
        ("block", block, lambda x, is_token: block(x, is_token[:, None, :])),
    ]
    return [
        SequenceChange(
            norm=factory.name,
            full_name=factory.norm.full_name,
            where=where,
            in_training=_changes(module.train(), run, watched, company),
            in_evaluation=_changes(module.eval(), run, watched, company),
        )
        for where, module, run in runs
    ]


@torch.no_grad()
def _changes(
    module: nn.Module,
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    watched: torch.Tensor,
    company: Sequence[torch.Tensor],
) -> dict[str, float]:
    """Return the change in each situation; running statistics are put back after each."""
    state = {name: value.clone() for name, value in module.state_dict().items()}

    def output(sequences: Sequence[torch.Tensor], length: int) -> torch.Tensor:
        x, is_token = pad(sequences, length)
        y = run(x, is_token)[0, : len(watched)]
        module.load_state_dict(state)
        return y

    alone = output([watched], len(watched))
    return {
        name: ((output(place(watched, company), length) - alone).abs().max() / alone.abs().max()).item()
        for name, (place, length) in SITUATIONS.items()
    }


def pad(sequences: Sequence[torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill sequences, each ``(T, D)``, up to `length` with zeros; return them ``(N, length, D)`` and a token mask.

    The mask is bool, ``(N, length)``: True for tokens, False for padding.
    """
    x = torch.stack([F.pad(sequence, (0, 0, 0, length - len(sequence))) for sequence in sequences])
    num_tokens = torch.tensor([len(sequence) for sequence in sequences])
    return x, torch.arange(length) < num_tokens[:, None]
