"""Norms and networks of a run's config, which may be of a user's own: factories, entries, and a first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normbench.config.schema import Code, ModelConfig, Named, NormConfig
from normbench.errors import ConfigError, RunError
from normbench.models import MODELS, Model
from normbench.models.own import own_model
from normbench.norms import NORM_FAMILIES, AnyNormFactory, NormFactory, NormFamily, SequenceNormFactory
from normbench.norms.own import offered_norms, own_factory, own_norm
from normbench.own_code import Source, Target, is_own, line_of, module_source, parse_target, read_source, split_weight
from normbench.registry import OptionValue


def norm_factory(config: NormConfig, family: NormFamily) -> AnyNormFactory:
    """Return the factory of the norm that a config names, of the catalog or of a user's own.

    Raises:
        ConfigError: the options do not fit, or the user's code cannot be executed.
    """
    if config.code is None:
        return family.make(config.name, **config.options)
    base, weight = split_weight(config.name)
    entry = own_norm(target_of(base), source_of(config))
    return own_factory(config.name, entry, family, config.options, weight=weight)


def named_norm(name: str, **options: OptionValue) -> NormFactory:
    """Return the factory of a norm of images by its name: of the catalog, of a file, or of an installed package.

    Raises:
        ConfigError: there is no such norm, an option does not fit, or the user's code cannot be executed.
    """
    factory = _named(name, NORM_FAMILIES["image"], options)
    assert isinstance(factory, NormFactory)
    return factory


def named_sequence_norm(name: str, **options: OptionValue) -> SequenceNormFactory:
    """Return the factory of a norm of token sequences by its name; see `named_norm`."""
    factory = _named(name, NORM_FAMILIES["sequence"], options)
    assert isinstance(factory, SequenceNormFactory)
    return factory


def _named(name: str, family: NormFamily, options: Mapping[str, OptionValue]) -> AnyNormFactory:
    base, weight = split_weight(name)
    if not is_own(base) and (base in family.norms or base not in offered_norms()):
        return family.make(name, **options)
    target = target_of(base)
    source = read_source(Path(target.module)) if target.is_file else module_source(target)
    return own_factory(name, own_norm(target, source), family, options, weight=weight)


def model_entry(config: ModelConfig) -> Model:
    """Return the entry of the network that a config names, of the registry or of a user's own."""
    return MODELS[config.name] if config.code is None else own_model(parse_target(config.name), source_of(config))


def source_of(config: Named) -> Source:
    """Return the text of the code that a config names; raises `RunError` where the config was read without it."""
    code = config.code
    if code is None or code.source is None:
        raise RunError(f"{config.name}: the text of {code.file if code else 'its code'} is not at hand")
    return code.source


def with_code(config: Any, folder: Path) -> Any:
    """Return a run's config with the text of its code, as the copies in the run's folder have it.

    Raises:
        RunError: a copy is missing, or is not what the run was made of.
    """
    changes = {}
    for section in ("norm", "model"):
        part = getattr(config, section, None)
        if part is None or part.code is None:
            continue
        try:
            source = read_source(folder / part.code.file)
        except ConfigError as error:
            raise RunError(f"{folder}: the code of its {section} cannot be read: {error}") from None
        if source.sha256 != part.code.sha256:
            raise RunError(f"{folder / part.code.file}: has changed since the run; it is not what the run was made of")
        changes[section] = part.model_copy(update={"code": Code.of(source)})
    return config.model_copy(update=changes)


def target_of(name: str) -> Target:
    """Return what a name without its weight method names: itself, or what an installed package offers by it."""
    if ":" in name:
        return parse_target(name)
    return parse_target(offered_norms()[name].value)


def watched(factory: AnyNormFactory, config: NormConfig) -> AnyNormFactory:
    """Return a factory of the same norm whose layers raise `ConfigError` where what they return is no norm's output."""
    source, build = source_of(config), factory.norm.build
    assert not isinstance(build, str)

    def build_watched(size: int, **options: Any) -> nn.Module:
        layer: nn.Module = build(size, **options)
        if isinstance(layer, nn.Module):  # the factory says what is wrong with anything else
            layer.register_forward_hook(partial(_check_output, factory.norm.label, source))
        return layer

    return replace(factory, norm=replace(factory.norm, build=build_watched))


def _check_output(name: str, source: Source, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    x, where = inputs[0], line_of(layer.forward, source)
    if not isinstance(output, torch.Tensor):
        raise ConfigError(f"{where}: {name} returned {type(output).__name__}, not a tensor")
    if output.shape != x.shape:
        raise ConfigError(f"{where}: {name} returned {tuple(output.shape)} for an input of shape {tuple(x.shape)}")
    if not output.is_meta and x.isfinite().all() and not output.isfinite().all():
        bad = int((~output.isfinite()).sum())
        raise ConfigError(
            f"{where}: {name} returned NaN or infinity, {bad} of {output.numel()} values, for finite numbers of shape "
            f"{tuple(x.shape)}"
        )


def check_logits(logits: Any, config: ModelConfig, num_images: int, num_classes: int) -> None:
    """Raise `ConfigError` unless a network of a user's own returned finite logits, ``(num_images, num_classes)``."""
    path = source_of(config).path
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"{path}: {config.name} returned {type(logits).__name__}, not a tensor of logits")
    if logits.shape != (num_images, num_classes):
        raise ConfigError(
            f"{path}: {config.name} returned {tuple(logits.shape)} for {num_images} images of {num_classes} classes; "
            f"it must return ({num_images}, {num_classes}): take num_classes in its constructor"
        )
    if not logits.is_meta and not logits.isfinite().all():
        raise ConfigError(f"{path}: {config.name} returned NaN or infinity for images of random numbers")
