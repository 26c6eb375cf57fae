"""The kernels around the network, interpreted on the CPU, against torch; whole steps are in tests/engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.engine.augment import apply_crop_flip, draw_crop_flip
from normbench.engine.batches import normalize
from normbench.kernels import train_step as step
from normbench.triton_code import train_step_kernels as step_kernels


def lose(logits: Tensor, labels: Tensor, smoothing: float = 0.1, batch_size: int = 64) -> tuple[Tensor, Tensor, int]:
    """Return gradient, loss and the number of correct answers, after checking what else the kernel counts."""
    losses, correct = torch.zeros(4), torch.tensor(5)
    step_in_epoch, global_step = torch.tensor(2), torch.tensor(9)
    gradient = step.cross_entropy(
        logits.detach(), labels, smoothing, losses, correct, step_in_epoch, global_step, batch_size
    )
    assert (int(step_in_epoch), int(global_step)) == (3, 10)
    assert not losses[[0, 1, 3]].any()
    return gradient, losses[2], int(correct) - 5


@pytest.mark.parametrize("shape", [(1, 2), (1, 10), (7, 10), (33, 3), (64, 32), (13, 100)], ids=str)
@pytest.mark.parametrize("block_rows", [8, 1024])
@pytest.mark.parametrize("unrolled", [True, False], ids=["unrolled", "loops"])
def test_loss_gradient_and_counts(
    shape: tuple[int, int], block_rows: int, unrolled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_LOSS_ROWS", block_rows)
    monkeypatch.setattr(step, "_UNROLLED_CLASSES", 1000 if unrolled else 0)
    rows, classes = shape
    source = torch.Generator().manual_seed(rows)
    logits = (torch.randn(shape, generator=source) * 30).requires_grad_()  # large enough to overflow without care
    labels = torch.randint(classes, (rows,), generator=source)
    gradient, loss, correct = lose(logits, labels)
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    expected.backward()
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss, expected.detach())
    assert correct == int((logits.argmax(1) == labels).sum())


def test_of_equal_logits_the_first_is_the_answer() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [-3.0, -3.0, -3.0, -3.0]]).repeat(4, 1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert [lose(logits[i : i + 1], labels[i : i + 1])[2] for i in range(8)] == [0, 1, 1, 0, 0, 0, 0, 0]
    assert lose(logits, labels)[2] == 2


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 4, 9])
def test_a_logit_that_is_no_number_shows(value: float, where: int) -> None:
    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    logits[2, where] = value
    gradient, loss, _ = lose(logits, labels)
    assert loss.isnan()
    assert gradient.isnan().all(1).tolist() == [False, False, True, False, False, False]
    assert gradient[[0, 1, 3, 4, 5]].isfinite().all()
    logits[2] = -torch.inf
    assert lose(logits, labels)[1].isnan()


@pytest.mark.parametrize("block_rows", [4, 1024])
def test_a_short_batch_leaves_other_rows_alone_and_takes_the_same_kernel(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_LOSS_ROWS", block_rows)
    launches: list[dict[str, object]] = []
    launch = step_kernels.cross_entropy[(1,)]

    class Spied:
        def __getitem__(self, grid: tuple[int]) -> Callable[..., object]:
            assert grid == (1,)
            return lambda *arguments, **constants: (launches.append(constants), launch(*arguments, **constants))

    source = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(16, 10, generator=source), torch.randint(10, (16,), generator=source)
    expected = functional.cross_entropy(logits[:5], labels[:5])
    logits_there, labels_there = logits.clone(), labels.clone()
    logits_there[5:], labels_there[5:] = torch.nan, 10**6
    written = torch.full((16, 10), 7.0)
    monkeypatch.setattr(step_kernels, "cross_entropy", Spied())
    lose(logits, labels, 0.0, batch_size=16)
    monkeypatch.setattr(torch, "empty_like", lambda x: written[: len(x)])
    _, loss, _ = lose(logits_there[:5], labels_there[:5], 0.0, batch_size=16)
    torch.testing.assert_close(loss, expected)
    assert (written[5:] == 7.0).all()
    assert (written[:5] != 7.0).all()
    assert launches[0] == launches[1]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("augment", [True, False])
def test_a_batch_is_gathered_changed_and_normalized(channels: int, augment: bool) -> None:
    source = torch.Generator().manual_seed(4)
    stored = torch.randint(256, (20, 17, 18, channels), dtype=torch.uint8, generator=source)  # 306 pixels: two programs
    labels, order = torch.arange(20), torch.randperm(20, generator=source)
    flips = draw_crop_flip(20, 1, 0) if augment else None
    batch, out = torch.full((6, 17, 18, channels), torch.nan), torch.full((6,), -1)
    step.assemble(stored, labels, order, torch.tensor(1), flips, batch, out, 8)  # the second batch of 8, cut to 6
    chosen = order[8:14]
    images = stored[chosen].permute(0, 3, 1, 2).contiguous()
    if flips is not None:
        images = apply_crop_flip(images, flips.dy[chosen], flips.dx[chosen], flips.flip[chosen])
    assert torch.equal(out, chosen)
    assert torch.equal(batch, normalize(images).permute(0, 2, 3, 1))
