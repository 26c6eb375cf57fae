"""The contract of a norm: what NormBench's own norms promise, measured on any layer, a number for each promise.

A norm that breaks one still trains where the network does not ask for it; each check says what fails with it.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normbench.errors import ConfigError
from normbench.norms import AnyNormFactory, SequenceNormFactory
from normbench.own_code import describe, place_of

Verdict = Literal["ok", "fails", "not checked"]

NUM_SAMPLES, SIZE, TOKENS = 5, 6, 7
_ROUNDING = 1e-5
"""The largest relative difference that rounding explains in float32."""
_LOW_PRECISION = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""The largest relative difference of one rounding to the dtype: of a layer that computes its statistics in float32."""
_GRADIENT, _FLOAT32_GRADIENT = 1e-6, 3e-3
"""The largest difference of a gradient, of a layer that computes in float64 and of one that casts to float32."""
_CAPTURED_STEPS = 3


@dataclass(frozen=True)
class Check:
    """One promise, as it was found."""

    name: str
    verdict: Verdict
    number: float | None
    """What was measured, in the words of `measured`; None where nothing could be."""
    measured: str
    """What the number is, or why there is none."""
    if_it_fails: str


@dataclass(frozen=True)
class Found:
    """What a check measured: whether the promise holds, the number and its meaning."""

    holds: bool
    number: float
    measured: str


def check_norm(factory: AnyNormFactory, num_channels: int = 64) -> list[Check]:
    """Return every check of the layer that `factory` makes for `num_channels`.

    The layer is float32 on the CPU, with arbitrary parameters; images are 6x6, sequences have 7 tokens.

    Raises:
        ConfigError: the layer cannot be built.
    """
    subject = _Subject(factory, num_channels)
    subject.build()  # what cannot be built at all is no norm
    checks = []
    for name, measure, if_it_fails in _checks(subject):
        if name == _CAPTURE and not torch.cuda.is_available():
            checks.append(Check(name, "not checked", None, "there is no CUDA device here", if_it_fails))
            continue
        try:
            found = measure()
            verdict: Verdict = "ok" if found.holds else "fails"
            number = found.number if math.isfinite(found.number) else None
            measured = found.measured if number is not None else f"{found.number} {found.measured}"
            checks.append(Check(name, verdict, number, measured, if_it_fails))
        except Exception as error:  # whatever the user's layer raises is the finding
            place = place_of(error)
            text = shorten(f"{place}: {describe(error)}" if place else describe(error), 160)
            checks.append(Check(name, "fails", None, text, if_it_fails))
    return checks


_CAPTURE = "CUDA graph"


class _Subject:
    """The layer under test, and inputs for it."""

    def __init__(self, factory: AnyNormFactory, num_channels: int) -> None:
        self._factory = factory
        self.num_channels = num_channels
        self.is_sequence = isinstance(factory, SequenceNormFactory)

    def build(self, size: int = SIZE) -> nn.Module:
        """Return a new layer in training mode, its parameters away from where they start."""
        factory = self._factory
        if isinstance(factory, SequenceNormFactory):
            layer = factory(self.num_channels)
        else:
            layer = factory(self.num_channels, size=size)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.2 * torch.rand(parameter.shape, generator=generator))
        return layer.train()

    def input(self, num_samples: int = NUM_SAMPLES, size: int = SIZE, seed: int = 0) -> Tensor:
        """Return numbers whose channels and samples differ in mean and scale: float32."""
        generator = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, generator=generator)
        if self.is_sequence:
            tokens, channels = TOKENS if size == SIZE else size, self.num_channels
            scale = 0.5 + normal(1, 1, channels).abs() + normal(num_samples, 1, 1).abs()
            return normal(num_samples, tokens, channels) * scale + 0.5 * normal(1, 1, channels)
        scale = 0.5 + normal(1, self.num_channels, 1, 1).abs() + normal(num_samples, 1, 1, 1).abs()
        mean = 0.5 * normal(1, self.num_channels, 1, 1) + 0.3 * normal(num_samples, 1, 1, 1)
        return normal(num_samples, self.num_channels, size, size) * scale + mean


def _checks(subject: _Subject) -> Iterator[tuple[str, Callable[[], Found], str]]:
    """Yield name, measurement, and what fails where the promise does not hold."""
    yield "shape", partial(_shape, subject), "the next layer cannot take the output, or adds it to the wrong pixels"
    yield "finite", partial(_finite, subject, NUM_SAMPLES, SIZE), "the first training step diverges"
    yield "dtype", partial(_dtype, subject), "under bf16, the default on a GPU, the following layers compute in fp32"
    yield "bf16", partial(_low_precision, subject, torch.bfloat16), "statistics lose digits in bf16: compute in float32"
    yield "fp16", partial(_low_precision, subject, torch.float16), "squares overflow in fp16: compute in float32"
    if not subject.is_sequence:
        yield "memory format", partial(_memory_format, subject), "each convolution behind it copies its input: slower"
    yield "gradient", partial(_gradient, subject), "training follows a wrong gradient"
    yield "train and eval", partial(_train_eval, subject), "evaluation computes what training never saw"
    yield "other samples", partial(_independence, subject), "a test image's result depends on which others are with it"
    yield "batch of one", partial(_finite, subject, 1, 4), "runs at batch size 1, and the probe batch_one, fail"
    yield "one pixel", partial(_finite, subject, 4, 1), "networks that end in 1x1 maps fail"
    yield "constant input", partial(_constant, subject), "a dead channel or a plain image makes NaN: add eps"
    yield "state_dict", partial(_state_dict, subject), "a checkpoint does not bring the layer back: resume differs"
    yield "torch.compile", partial(_compile, subject), "engine: compile breaks the network into parts, or fails"
    yield _CAPTURE, partial(_capture, subject), "steps run one by one, which is slower, and the run says why"


def _shape(subject: _Subject) -> Found:
    x = subject.input()
    y = subject.build()(x)
    if not isinstance(y, Tensor):
        raise TypeError(f"returned {type(y).__name__}, not a tensor")
    same = y.shape == x.shape
    return Found(same, y.numel() / x.numel(), f"values out for each value in, {_x(x)} to {_x(y)}")


def _dtype(subject: _Subject) -> Found:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    outputs = [subject.build()(subject.input().to(dtype)) for dtype in dtypes]
    kept = sum(y.dtype == dtype for y, dtype in zip(outputs, dtypes, strict=True))
    return Found(kept == len(dtypes), kept, f"of {len(dtypes)} dtypes kept")


def _low_precision(subject: _Subject, dtype: torch.dtype) -> Found:
    x = subject.input().mul(300 if dtype == torch.float16 else 1).to(dtype)
    y, gradient = _run(subject.build(), x)
    exact, _ = _run(subject.build(), x.float())
    if not (y.isfinite().all() and gradient.isfinite().all()):
        return Found(False, float((~y.isfinite()).sum()), "values are NaN or infinite")
    error = _relative(y, exact)
    return Found(error <= 2 * _LOW_PRECISION[dtype], error, "relative difference to float32")


def _memory_format(subject: _Subject) -> Found:
    x = subject.input()
    formats = (torch.contiguous_format, torch.channels_last)
    layouts = [_run(subject.build(), x.contiguous(memory_format=layout))[0] for layout in formats]
    kept = sum(y.is_contiguous(memory_format=layout) for y, layout in zip(layouts, formats, strict=True))
    return Found(kept == len(formats), kept, f"of {len(formats)} memory formats kept")


def _gradient(subject: _Subject) -> Found:
    layer, x = subject.build(2).double(), subject.input(3, 2).double().requires_grad_()
    parameters = dict(layer.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def function(x: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(parameters, values, strict=True)) | {name: b.clone() for name, b in buffers.items()}
        y: Tensor = torch.func.functional_call(layer, state, (x,))
        return y

    inputs = (x, *(parameter.detach().clone().requires_grad_() for parameter in parameters.values()))
    holds = torch.autograd.gradcheck(function, inputs, fast_mode=True, raise_exception=False)
    error = _directional_error(function, inputs, 1e-6)
    if holds and error <= _GRADIENT:
        return Found(True, error, "relative difference to central differences in float64")
    # A layer that casts to float32, whatever comes in, needs a step that float32 can see.
    error = _directional_error(function, inputs, 1e-3)
    return Found(error <= _FLOAT32_GRADIENT, error, "relative difference to central differences; partly in float32")


def _directional_error(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], step: float) -> float:
    """Return how far the gradient is from the change of a projection of the output along a random direction."""
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in inputs]
    output = function(*inputs)
    projection = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    gradients = torch.autograd.grad((output * projection).sum(), inputs, allow_unused=True)
    along = sum(
        float((gradient * direction).sum())
        for gradient, direction in zip(gradients, directions, strict=True)
        if gradient is not None
    )
    with torch.no_grad():
        ends = [
            float(
                (function(*(v + sign * step * d for v, d in zip(inputs, directions, strict=True))) * projection).sum()
            )
            for sign in (1, -1)
        ]
    difference = (ends[0] - ends[1]) / (2 * step)
    return abs(along - difference) / max(abs(difference), 1e-12)


def _train_eval(subject: _Subject) -> Found:
    layer, x = subject.build(), subject.input()
    training = layer(x)
    change = _relative(layer.eval()(x), training)
    has_state = any(True for _ in layer.buffers())
    what = "relative difference of evaluation to training"
    return Found(change <= _ROUNDING or has_state, change, what if has_state else f"{what}, without running state")


def _independence(subject: _Subject) -> Found:
    layer, x = subject.build(), subject.input()
    layer(x)
    layer.eval()
    change = _relative(layer(x[:1]), layer(x)[:1])
    layer.train()
    trained = _relative(layer(x[:2])[:1], layer(x)[:1])
    return Found(change <= _ROUNDING, change, f"relative change in evaluation; {trained:.1g} in training")


def _finite(subject: _Subject, num_samples: int, size: int) -> Found:
    x = subject.input(num_samples, size)
    try:
        y, gradient = _run(subject.build(size), x)
    except ValueError as error:  # which is how a norm says that it has a single value to normalize
        return Found(True, 0, f"values: it refuses {_x(x)} ({describe(error)})")
    bad = float((~y.isfinite()).sum() + (~gradient.isfinite()).sum())
    return Found(bad == 0, bad, f"values and gradients of {_x(x)} are NaN or infinite")


def _constant(subject: _Subject) -> Found:
    bad = 0.0
    for value in (0.0, 3.0):
        y, gradient = _run(subject.build(), torch.full_like(subject.input(), value))
        bad += float((~y.isfinite()).sum() + (~gradient.isfinite()).sum())
    return Found(bad == 0, bad, "values and gradients are NaN or infinite")


def _state_dict(subject: _Subject) -> Found:
    layer, x = subject.build(), subject.input()
    layer(x)  # moves running state
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = subject.build()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(layer)
    largest = 0.0
    for mode in (False, True):
        expected = copy.deepcopy(layer).train(mode)(x)
        largest = max(largest, *(_relative(other.train(mode)(x), expected) for other in (loaded, copied)))
    return Found(largest == 0, largest, "relative difference after saving and loading")


def _compile(subject: _Subject) -> Found:
    torch._dynamo.reset()
    x = subject.input()
    compiled = torch.compile(subject.build(), backend="aot_eager_decomp_partition", fullgraph=True)
    pairs = zip(_run(compiled, x), _run(subject.build(), x), strict=True)
    error = max(_relative(actual, expected) for actual, expected in pairs)
    return Found(error <= 10 * _ROUNDING, error, "relative difference of the compiled layer")


def _capture(subject: _Subject) -> Found:
    """Replay the layer's captured forward and backward on several inputs, and compare with what it computes anew."""
    device = torch.device("cuda")
    inputs = [subject.input(seed=seed).to(device) for seed in range(_CAPTURED_STEPS)]
    plain, layer = subject.build().to(device), subject.build().to(device)
    x = inputs[0].clone().requires_grad_()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            _run_on(layer, x)
        layer.load_state_dict(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = _run_on(layer, x)
    torch.cuda.current_stream().wait_stream(stream)
    layer.load_state_dict(before)
    error = 0.0
    for values in inputs:
        with torch.no_grad():
            x.copy_(values)
        graph.replay()
        torch.cuda.synchronize()
        expected = _run_on(plain, values.clone().requires_grad_())
        error = max(error, *(_relative(a, e) for a, e in zip(captured, expected, strict=True)))
    return Found(error <= 10 * _ROUNDING, error, f"relative difference of {_CAPTURED_STEPS} replayed steps")


def _run(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of a fixed projection of it by the input."""
    y, gradient = _run_on(layer, x.clone().requires_grad_())
    return y.detach(), gradient


def _run_on(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape)
    (gradient,) = torch.autograd.grad((y.float() * weights).sum(), x)
    return y, gradient


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    if actual.shape != expected.shape:
        raise ConfigError(f"returned {tuple(actual.shape)} where {tuple(expected.shape)} was expected")
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs().masked_fill(actual.isnan() & expected.isnan(), 0)
    scale = expected.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-30)
    return float(difference.nan_to_num(math.inf).max() / scale)


def _x(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape))
