"""The kernels around the network, interpreted on the CPU, against torch; whole steps are in tests/engine."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.data.augment import apply_crop_flip, draw_crop_flip
from normbench.data.batches import normalize
from normbench.kernels import step


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (33, 3)])
@pytest.mark.parametrize("elements", [32, 16384], ids=["many tiles", "one tile"])
def test_loss_gradient_and_counts(shape: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_LOSS_ELEMENTS", elements)
    rows, classes = shape
    source = torch.Generator().manual_seed(rows)
    logits = (torch.randn(shape, generator=source) * 30).requires_grad_()  # large enough to overflow without care
    labels = torch.randint(classes, (rows,), generator=source)
    losses, correct = torch.zeros(4), torch.tensor(5)
    step_in_epoch, global_step = torch.tensor(2), torch.tensor(9)
    gradient = step.cross_entropy(logits.detach(), labels, 0.1, losses, correct, step_in_epoch, global_step, 32)
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    expected.backward()
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.0, expected.item(), 0.0]))
    assert int(correct) == 5 + int((logits.argmax(1) == labels).sum())
    assert (int(step_in_epoch), int(global_step)) == (3, 10)


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
