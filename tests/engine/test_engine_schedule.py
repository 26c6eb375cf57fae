"""Learning rates against PyTorch's schedulers and drawn lines."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from normbench.engine.schedule import learning_rates


def by_scheduler(make_scheduler, num_steps: int, peak: float) -> list[float]:
    """The rate of each step under one of PyTorch's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert learning_rates("constant", 0.1, 7).tolist() == pytest.approx([0.1] * 7)


def test_cosine_is_pytorchs() -> None:
    expected = by_scheduler(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50), 50, 0.3)
    assert learning_rates("cosine", 0.3, 50).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_rates_are_rounded_once_from_double_precision() -> None:
    """So fixed-seed losses keep their bits, however the rates are held."""
    expected = [0.3 * (1 + math.cos(math.pi * step / 1000)) / 2 for step in range(1000)]
    assert learning_rates("cosine", 0.3, 1000).tolist() == torch.tensor(expected, dtype=torch.float32).tolist()


def test_rates_take_four_bytes_each() -> None:
    tracemalloc.start()
    rates = learning_rates("one_cycle", 0.3, 200_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rates.nbytes == 800_000
    assert peak_bytes < 1_200_000


def test_one_cycle_is_a_triangle() -> None:
    """Up to the peak over 30 % of the steps, then straight down to 0 at the end."""
    steps = np.arange(100)
    up = np.interp(steps + 1, [0, 30], [0, 0.4])
    down = np.interp(steps, [30, 100], [0.4, 0])
    assert learning_rates("one_cycle", 0.4, 100).tolist() == pytest.approx(np.minimum(up, down).tolist(), rel=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_warmup_rises_linearly_to_the_peak(schedule) -> None:
    rates = learning_rates(schedule, 0.2, 40, warmup_fraction=0.25)
    assert rates[:9].tolist() == pytest.approx([0.02 * step for step in range(1, 10)])
    assert rates[9].item() == rates[10].item() == pytest.approx(0.2) == rates.max().item()


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_very_short_trainings_have_positive_rates(schedule, num_steps: int) -> None:
    rates = learning_rates(schedule, 0.2, num_steps)
    assert len(rates) == num_steps
    assert (rates > 0).all()
    assert (rates <= 0.2 + 1e-7).all()
