"""The flags of ``normbench bench``, read and resolved; every mistake is found here, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any, TypeVar

from normbench.bench.results import TUTORIAL
from normbench.config.bounds import check_memory, parse_count
from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.engine.device import DeviceName, Precision, resolve_device, resolve_precision
from normbench.errors import ConfigError, UnknownNameError
from normbench.experiment.own import find_own
from normbench.experiment.plan import draft_runs, finish_plans
from normbench.models import MODELS
from normbench.norms import AnyNormFactory
from normbench.registry import find
from normbench.worker.own import named_norm, named_sequence_norm
from normbench.worker.targets import DraftError, describe_own, resolve_runs

Factory = TypeVar("Factory", bound=AnyNormFactory)

VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        TUTORIAL: {"train.engine": "eager", "train.precision": "fp32"},
        "eager": {"train.engine": "eager", "train.precision": "fp32"},
        "auto": {},
        "graph": {"train.engine": "graph"},
        "compile": {"train.engine": "compile"},
    }
)
"""The settings of each variant; all others are as `--engine` and `--precision` say, or else as `compare` chooses."""

_FLAG_OF = MappingProxyType(
    {
        "norm": "--norms",
        "norms": "--norms",
        "model": "--model",
        "model.name": "--model",
        "dataset": "--dataset and --num-train",
        "train.batch_size": "--batch-sizes",
    }
)
"""The flag that always says what such a setting would say."""


def plan_runs(
    variants: Sequence[str], batch_sizes: Sequence[int], flags: Mapping[str, Any], settings: Sequence[str]
) -> list[tuple[str, RunConfig]]:
    """Return ``(variant, config)`` of every case, by batch size, then norm, then variant; builds models on `meta`.

    Args:
        variants: keys of `VARIANTS`.
        batch_sizes: each at least 1.
        flags: what `load_config` takes: norms, model, dataset, device, precision, engine.
        settings: ``train.lr=0.01`` and the like.

    Raises:
        UnknownNameError: a variant does not exist.
        ConfigError: anything else is wrong: a norm, a model, an engine that the device does not have.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise ConfigError(f"--variants: {UnknownNameError('variant', variant, VARIANTS)}")
    for setting in settings:
        path = setting.partition("=")[0].strip()
        section = path.partition(".")[0]
        flag = _FLAG_OF.get(path if section == "model" else section) or _FLAG_OF.get(path)
        if flag is not None:
            raise ConfigError(f"--set {setting}: bench train takes {path} from {flag}")
    if flags["model"] in MODELS:  # what it is called is checked with the rest
        is_image = MODELS[flags["model"]].norm_family == "image"
        factories(flags["norms"], named_norm if is_image else named_sequence_norm)
    runs = []
    for batch_size in batch_sizes:
        by_variant = {variant: _configs(variant, batch_size, flags, settings) for variant in variants}
        for position in range(len(by_variant[variants[0]])):
            runs += [(variant, configs[position]) for variant, configs in by_variant.items()]
    return runs


def _configs(variant: str, batch_size: int, flags: Mapping[str, Any], settings: Sequence[str]) -> list[RunConfig]:
    loaded = load_config(
        None, settings=settings, flags={**flags, "train.batch_size": batch_size, **VARIANTS[variant]},
        default_name="bench",
    )  # fmt: skip
    if len(loaded.cells) > 1 or len(loaded.experiment.seeds) > 1:
        raise ConfigError("bench: one seed and no grid; --batch-sizes and --variants say what is compared")
    loaded, own = find_own(loaded, describe_own)
    drafts = draft_runs(loaded, own)
    try:
        plans = finish_plans(drafts, resolve_runs(drafts))
    except DraftError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"variant {variant}: {error}") from error
    return [plan.config for plan in plans if isinstance(plan.config, RunConfig)]


def network_factories(norms: Sequence[str], model: str) -> list[AnyNormFactory]:
    """Return the factory of each norm for a classifier.

    Raises:
        ConfigError: a norm or the model does not exist, or the model is no classifier.
    """
    entry = find("model", model, MODELS)
    if entry.task != "classification":
        raise ConfigError(f"--model: {model} is no classifier")
    make: Callable[[str], AnyNormFactory] = named_norm if entry.norm_family == "image" else named_sequence_norm
    return factories(norms, make)


def inference_variants(text: str | None, device: DeviceName) -> tuple[str, ...]:
    """Read ``eager,compile``; None stands for what the device has without compiling.

    Raises:
        ConfigError: a variant does not exist, or not on the device.
    """
    allowed = ("eager", "graph", "compile") if device == "cuda" else ("eager", "compile")
    found = names("--variants", text or ",".join(allowed[:-1]))
    for variant in found:
        if variant not in allowed:
            raise ConfigError(f"--variants: {UnknownNameError(f'variant on {device}', variant, allowed)}")
    return tuple(found)


def names(option: str, text: str) -> list[str]:
    """Read ``bn,gn``; repetitions count once.

    Raises:
        ConfigError: there is no name.
    """
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise ConfigError(f"{option}: give at least one name, such as bn,gn")
    return found


def batch_sizes(text: str) -> list[int]:
    """Read ``64,1024``.

    Raises:
        ConfigError: something is no whole number from 1.
    """
    return counts("--batch-sizes", text, "64,1024")


def counts(option: str, text: str, example: str) -> list[int]:
    """Read whole numbers with commas between them; repetitions count once.

    Raises:
        ConfigError: something is no whole number from 1.
    """
    found = []
    for part in text.split(","):
        number = parse_count(part)
        if number is None:
            raise ConfigError(f"{option}: {part.strip()!r} is not a whole number from 1; for example {example}")
        found.append(number)
    return list(dict.fromkeys(found))


def shapes(text: str | None, sizes: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Read ``64x32x32,128x16x16`` (C, H, W) and return it for every batch size; None: the layers of NormResNet.

    Raises:
        ConfigError: a shape is not three whole numbers from 1, or cannot fit into this machine.
    """
    layers = [_layer_shape(part) for part in text.split(",")] if text is not None else _normresnet_layers()
    for size, layer in product(sizes, layers):
        shape = "x".join(map(str, layer))
        check_memory(8 * size * prod(layer), f"--shapes {shape} at batch size {size}: a step of the layer")
    return [(size, *layer) for size in sizes for layer in dict.fromkeys(layers)]


def _layer_shape(text: str) -> tuple[int, int, int]:
    match [parse_count(part) for part in text.split("x")]:
        case [int(channels), int(height), int(width)]:
            return channels, height, width
    raise ConfigError(f"--shapes: {text.strip()!r} is not CxHxW, such as 64x32x32")


def _normresnet_layers() -> list[tuple[int, int, int]]:
    from normbench.models.normresnet import CHANNELS, STRIDES

    layers, size = [], 32
    for num_channels, stride in zip(CHANNELS, STRIDES, strict=True):
        size //= stride
        layers.append((num_channels, size, size))
    return layers


def override_tiling(settings: Sequence[str]) -> dict[str, int]:
    """Set constants of `normbench.kernels.tiling` for this process, as ``PROGRAMS=128`` says, and return them.

    Raises:
        ConfigError: there is no such constant, or the value is no whole number.
    """
    from normbench.kernels import tiling

    constants = [name for name in vars(tiling) if name.isupper()]
    found = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in constants:
            raise ConfigError(f"--set: {UnknownNameError('constant of kernels/tiling.py', name, constants)}")
        if not value.isdecimal():
            raise ConfigError(f"--set {setting}: {value!r} is not a whole number; for example PROGRAMS=128")
        found[name] = int(value)
    for name, number in found.items():
        setattr(tiling, name, number)
    return found


def factories(norms: Sequence[str], make: Callable[[str], Factory]) -> list[Factory]:
    """Return what `make` makes of each norm.

    Raises:
        ConfigError: a norm does not exist.
    """
    found = []
    for norm in norms:
        try:
            found.append(make(norm))
        except ConfigError as error:
            raise ConfigError(f"--norms: {error}") from error
    return found


def device_and_precision(device: str | None, precision: str | None) -> tuple[DeviceName, Precision]:
    """Resolve what ``--device`` and ``--precision`` say; None stands for ``auto``.

    Raises:
        ConfigError: something that does not exist.
        DeviceError: a device that is not here.
    """
    flags = {"norms": ["bn"], "device": device, "train.precision": precision}
    given = {path: value for path, value in flags.items() if value is not None}
    experiment = load_config(None, flags=given, default_name="bench").experiment
    resolved = resolve_device(experiment.device)
    return resolved, resolve_precision(experiment.train.precision, resolved)
