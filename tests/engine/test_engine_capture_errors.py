"""The reason why a step cannot be captured: the first error, with the line of a user's file that it was in."""

from pathlib import Path

import pytest

from normbench.engine.step.prepare import _why
from normbench.own_code import Target, load_attribute, read_source


def end_capture() -> None:
    raise RuntimeError("operation failed due to a previous error during capture")


def failure(function: object) -> RuntimeError:
    """Fail in `function`, and then in ending the capture, as `torch.cuda.graph` does."""

    def capture() -> None:
        try:
            function()  # type: ignore[operator]
        finally:
            end_capture()

    with pytest.raises(RuntimeError) as caught:
        capture()
    return caught.value


def test_the_first_error_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text("def asks():\n    x = 1\n    raise RuntimeError('operation not permitted when capturing\\nmore')\n")
    asks = load_attribute(Target(str(file), "asks"), read_source(file))
    assert _why(failure(asks)) == f"{file}:3: operation not permitted when capturing"


def test_an_error_elsewhere_is_named_without_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        end_capture()
    assert _why(caught.value) == "operation failed due to a previous error during capture"
