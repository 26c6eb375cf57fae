"""LayerNorm gives a sequence the same output in any company; BatchNorm does not."""

import pytest
import torch

from normbench.inspection.sequences import SITUATIONS, measure_sequences, pad
from normbench.models.transformer import TransformerBlock
from normbench.norms import SEQUENCE_NORMS, make_sequence_norm

SEQUENCES = [torch.randn(length, 16, generator=torch.Generator().manual_seed(length)) for length in (3, 7, 10)]


@pytest.mark.parametrize("length", [10, 14])
def test_layer_norm_ignores_company_and_padding_and_batch_norm_does_not(length: int) -> None:
    x, is_token = pad(SEQUENCES, length)
    for name, independent in (("ln", True), ("bn", False)):
        torch.manual_seed(0)
        block = TransformerBlock(16, 4, 32, norm=make_sequence_norm(name)).train()
        together = block(x, is_token[:, None, :])
        for row, sequence in zip(together, SEQUENCES, strict=True):
            alone = block(sequence[None])[0]
            same = torch.allclose(row[: len(sequence)], alone, rtol=1e-4, atol=1e-5)
            assert same is independent, f"{name}: {len(sequence)} tokens"


def test_padding_is_zero_and_known() -> None:
    x, is_token = pad(SEQUENCES, 12)
    assert x.shape == (3, 12, 16)
    assert is_token.sum(dim=1).tolist() == [3, 7, 10]
    for row, sequence in zip(x, SEQUENCES, strict=True):
        assert torch.equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()


@pytest.mark.parametrize("name", SEQUENCE_NORMS)
def test_what_is_measured_agrees_with_the_registry(name: str) -> None:
    for change in measure_sequences(make_sequence_norm(name)):
        assert change.is_independent is not SEQUENCE_NORMS[name].batch_dependent
        assert set(change.in_training) == set(change.in_evaluation) == set(SITUATIONS)
        assert max(change.in_evaluation.values()) < 1e-5
        if SEQUENCE_NORMS[name].batch_dependent:
            assert min(change.in_training.values()) > 0.1
