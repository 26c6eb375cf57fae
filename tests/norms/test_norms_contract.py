"""What every norm of the registry promises, whatever it computes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from norm_cases import CASES, CHANNELS, EXACT, EXACT_IDS, IDS, SIZE, build, fill, images, relative_error
from torch import nn

from normbench.norms import NORMS

all_cases = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
all_norms = pytest.mark.parametrize("name", NORMS)
# The others keep a memory in their backward pass: gradients say nothing of what they read, and they trace in two parts.
exact_cases = pytest.mark.parametrize(("name", "options"), EXACT, ids=EXACT_IDS)
exact_norms = pytest.mark.parametrize("name", [name for name in NORMS if not NORMS[name].has_surrogate_gradient])

# Shapes on which a statistic would cover a single value, in training; every other norm and shape gives finite numbers.
PER_BATCH = {"bn", "bn_nostats", "brn", "custom_bn", "ghost_bn", "sn", "bin", "bcn", "ibn", "iternorm"}
PER_BATCH |= {"evonorm_b0", "evonorm_b1", "evonorm_b2"}
PER_IMAGE_OF_A_CHANNEL = {"in", "ibn", "evonorm_s0", "evonorm_s1", "evonorm_s2"}  # EvoNorm-S: 8 groups of 8 channels
SINGLE_VALUE = {
    "one pixel": PER_IMAGE_OF_A_CHANNEL,
    "one value": PER_BATCH | PER_IMAGE_OF_A_CHANNEL,
    "one image": set(),
}
SHAPES = {"one image": (1, CHANNELS, 4, 4), "one pixel": (4, CHANNELS, 1, 1), "one value": (1, CHANNELS, 1, 1)}


def filled(name: str, options: dict[str, object], *, size: int = SIZE) -> nn.Module:
    return fill(build(name, options, size=size), torch.Generator().manual_seed(1))


def run(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and the gradient by the input."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad((y.float() * images(*x.shape, seed=9).float()).sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@all_cases
def test_shape_dtype_and_memory_format_are_kept(
    name: str, options: dict[str, object], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    layer = filled(name, options)
    x = images(5, CHANNELS, SIZE, SIZE).to(dtype).contiguous(memory_format=layout)
    for mode in (True, False):
        in_float32, _ = run(copy.deepcopy(layer).train(mode), x.float())
        y, gradient = run(layer.train(mode), x)
        assert y.shape == x.shape
        assert y.dtype == gradient.dtype == dtype
        assert y.is_contiguous(memory_format=layout)
        # float32 statistics: the same numbers as in float32, but for the last rounding
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
        assert relative_error(y, in_float32) <= tolerance


@all_cases
def test_low_precision_input_of_large_values_keeps_finite_statistics(name: str, options: dict[str, object]) -> None:
    """Squares of 300 overflow fp16; statistics are in float32."""
    x = (images(5, CHANNELS, SIZE, SIZE) * 300).half()
    layer = filled(name, options)
    if name == "online":  # its controls of the gradient are stable only where x is about normalized
        layer.running_var.fill_(300**2)
    y, gradient = run(layer, x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
@all_norms
def test_degenerate_shapes_give_finite_numbers_or_say_why_not(name: str, shape: str) -> None:
    x = images(*SHAPES[shape], dtype=torch.float32)
    layer = filled(name, {}, size=x.shape[-1])
    if name in SINGLE_VALUE[shape]:
        with pytest.raises(ValueError, match=r"single value|more than 1 value"):
            layer(x)
        return
    y, gradient = run(layer, x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@all_cases
def test_constant_images_give_finite_numbers(name: str, options: dict[str, object]) -> None:
    for value in (0.0, 3.0):
        y, gradient = run(filled(name, options), torch.full((4, CHANNELS, SIZE, SIZE), value))
        assert y.isfinite().all()
        assert gradient.isfinite().all()


@all_norms
def test_training_and_evaluation_differ_where_the_registry_says_so(name: str) -> None:
    layer = filled(name, {})
    x = images(4, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    same = torch.equal(layer.train()(x), layer.eval()(x))
    assert same is not NORMS[name].train_eval_differ


@all_norms
def test_other_samples_matter_where_the_registry_says_so(name: str) -> None:
    layer = filled(name, {})
    x = images(4, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    alone = relative_error(layer(x[:1]), layer(x)[:1])
    assert (alone > 1e-3) is NORMS[name].batch_dependent
    if name != "bn_nostats":  # batch statistics at evaluation are its definition
        layer.eval()
        assert relative_error(layer(x[:1]), layer(x)[:1]) <= 1e-6


@all_norms
def test_running_state_and_parameters_are_as_the_registry_says(name: str) -> None:
    layer, norm = build(name, {}), NORMS[name]
    assert bool(list(layer.buffers())) is (norm.running_state != "none")
    channels = CHANNELS * SIZE**2 if norm.needs_size else CHANNELS
    number_per_channel = sum(parameter.numel() == channels for parameter in layer.parameters())
    assert norm.learnable_per_channel.startswith(str(number_per_channel))


@exact_norms
def test_an_output_depends_on_the_axes_that_the_registry_names(name: str) -> None:
    """Which inputs have a gradient to one output is exactly the union of its statistics' axes."""
    options = {"norm_batch_size": 2} if name == "ghost_bn" else {}
    layer = filled(name, options)
    x = images(4, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    if name == "brn":  # within the limits r and d would undo the batch's statistics, to first order
        layer.r_limit.fill_(1)
        layer.d_limit.fill_(0)
    parts = {"N/K": 2, "C/G": CHANNELS // getattr(layer, "num_groups", 1), "C/n": getattr(layer, "size", 0) // 2 + 1}
    sets = NORMS[name].axis_sets
    # IBN-a's two statistics belong to different channels: the first to channel 0, the second to the last.
    probes = [(0, sets[:1]), (CHANNELS - 1, sets[1:])] if name == "ibn" else [(0, sets)]
    if name == "bcn":  # its statistics are taken one after the other, so that the second sees the first's axes too
        probes = [(0, (("N", "C/G", "H", "W"),))]
    for channel, axis_sets in probes:
        inputs = x.clone().requires_grad_()
        # One output; or one channel of norms with a maximum, of which one output shows one side only.
        output = layer(inputs)[0, channel] if NORMS[name].replaces_activation else layer(inputs)[0, channel, :1, :1]
        (gradient,) = torch.autograd.grad(output, inputs, torch.linspace(1, 2, output.numel()).view_as(output))
        expected = torch.zeros_like(x, dtype=torch.bool)
        expected[0, channel, 0, 0] = True
        for axes in axis_sets:
            region: list[slice] = []
            for letter, index, length in zip("NCHW", (0, channel, 0, 0), x.shape, strict=True):
                part = next((axis for axis in axes if axis[0] == letter), None)
                region.append(slice(0, parts.get(part, length)) if part else slice(index, index + 1))
            expected[tuple(region)] = True
        assert torch.equal(gradient != 0, expected)


@all_cases
def test_state_dict_round_trip_and_deepcopy(name: str, options: dict[str, object]) -> None:
    x = images(4, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    layer = filled(name, options)
    layer(x)  # moves the running state
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = build(name, options)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(layer)
    for mode in (False, True):
        expected = layer.train(mode)(x)
        assert torch.equal(loaded.train(mode)(x), expected)
        assert torch.equal(copied.train(mode)(x), expected)


@exact_cases
def test_gradcheck_in_float64(name: str, options: dict[str, object]) -> None:
    # r and d of BRN are constants to the gradient by definition; at the start of training they are 1 and 0.
    layer = build(name, options, size=2).double()
    if name != "brn":
        fill(layer, torch.Generator().manual_seed(1))
    names = [name for name, _ in layer.named_parameters()]
    buffers = dict(layer.named_buffers())

    def function(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, parameters, strict=True)) | {key: value.clone() for key, value in buffers.items()}
        output: torch.Tensor = torch.func.functional_call(layer, state, (x,))
        return output

    x = images(3, CHANNELS, 2, 2).requires_grad_()
    parameters = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True)


def assert_compiles(name: str, backend: str) -> None:
    x = images(4, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    eager, layer = filled(name, {}), filled(name, {})
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for actual, expected in zip(run(compiled, x), run(eager, x), strict=True):
        assert relative_error(actual, expected) <= 1e-5
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[key], value, rtol=1e-5, atol=1e-6)


@exact_norms
def test_traces_into_one_graph(name: str) -> None:
    """One graph without a break: no value is read back to Python, so that a CUDA graph can hold the layer too."""
    torch._dynamo.reset()
    assert_compiles(name, "eager")


@pytest.mark.slow
@exact_norms
def test_decomposes(name: str) -> None:
    torch._dynamo.reset()
    assert_compiles(name, "aot_eager_decomp_partition")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")  # Inductor's own
@exact_norms
def test_compiles_with_inductor(name: str) -> None:
    torch._dynamo.reset()
    assert_compiles(name, "inductor")


@all_norms
def test_builds_on_the_meta_device(name: str) -> None:
    """So that an experiment can check all its models without memory."""
    with torch.device("meta"):
        layer = build(name, {})
        x = torch.empty(4, CHANNELS, SIZE, SIZE)
    assert layer(x).shape == x.shape
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
