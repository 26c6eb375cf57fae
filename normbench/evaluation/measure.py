"""The whole evaluation of one trained network, in the order of `evaluation.json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from normbench.config.schema import EvaluateConfig
from normbench.engine.batches import EVALUATION_BATCH_SIZE, DeviceImages
from normbench.engine.device import DeviceName, Precision
from normbench.engine.evaluate import MAX_SINGLE_IMAGES, Evaluation, RepeatedEvaluation, evaluate
from normbench.evaluation.average import WeightAverage
from normbench.evaluation.corruptions import KINDS, SEVERITIES, corrupted
from normbench.evaluation.predictions import predict
from normbench.evaluation.statistics import as_trained, depends_on_batch_or_mode, reestimated
from normbench.evaluation.views import Views
from normbench.runs.evaluation_file import (
    CorruptionResult,
    Corruptions,
    Statistics,
    StatisticsResult,
    TrainImages,
    ViewsResult,
    Weights,
    pack_hits,
)
from normbench.runs.evaluation_file import Evaluation as Record

MAX_TRAIN_IMAGES = 10_000
"""Training images of the train-test gap: as many as CIFAR-10 has test images."""


@dataclass(frozen=True)
class Subject:
    """A trained network with the images that it is evaluated on, all on one device."""

    model: nn.Module
    train_images: DeviceImages
    test_images: DeviceImages
    class_names: tuple[str, ...]
    split: str
    device: DeviceName
    precision: Precision
    average: WeightAverage | None = None
    official_corruptions: Path | None = None
    """The folder of CIFAR-10-C, where corruptions are official."""


def evaluate_all(subject: Subject, config: EvaluateConfig) -> Record:
    """Return everything that `config` asks for; the network stays as it is.

    Raises:
        DataError: the official corruptions are missing or damaged.
    """
    model, was_training = subject.model, subject.model.training
    where = subject.device, subject.precision
    try:
        model.eval()
        found = predict(model, subject.test_images, *where)
        train_images = subject.train_images.first(MAX_TRAIN_IMAGES)
        on_train = evaluate(model, train_images, *where)
        has_statistics = depends_on_batch_or_mode(model, subject.test_images, subject.device)
        average = subject.average
        return Record(
            split="val" if subject.split == "val" else "test",
            num_images=len(subject.test_images),
            class_names=subject.class_names,
            confusion=found.confusion(len(subject.class_names)).tolist(),
            loss=found.loss,
            bins=found.bins(),
            hits=pack_hits(found.is_hit),
            train=TrainImages(num_images=len(train_images), accuracy=on_train.accuracy, loss=on_train.loss),
            statistics=tuple(_statistics(subject, config, has_statistics=has_statistics)),
            views=_views(subject, config.views),
            num_averaged=0 if average is None else average.count,
            corruptions=_corruptions(subject, config, adapts=has_statistics),
        )
    finally:
        model.train(was_training)


def _views(subject: Subject, num_views: int) -> ViewsResult | None:
    """Return the result with several views of each image; None where one is enough."""
    if num_views == 1:
        return None
    found = evaluate(Views(subject.model, num_views), subject.test_images, *_where(subject))
    return ViewsResult(num_views=num_views, accuracy=found.accuracy, loss=found.loss)


def _statistics(subject: Subject, config: EvaluateConfig, *, has_statistics: bool) -> Iterator[StatisticsResult]:
    """Yield the results with statistics from each source, of the last weights and of the averaged ones."""
    models: list[tuple[Weights, nn.Module]] = [("last", subject.model)]
    if subject.average is not None:
        models.append(("average", subject.average.applied_to(subject.model)))
    if not has_statistics:
        models = models[1:]  # the last weights have but one result, which the record begins with
    for weights, model in models:
        yield _result(subject, weights, "running", evaluate(model, subject.test_images, *_where(subject)))
        if has_statistics:
            estimated = reestimated(model, subject.train_images, config.reestimate_batches, *_where(subject))
            if estimated is not None:
                result = evaluate(estimated, subject.test_images, *_where(subject))
                yield _result(subject, weights, "re-estimated", result)
    if has_statistics:
        yield from _batch_statistics(subject, config)


def _batch_statistics(subject: Subject, config: EvaluateConfig) -> Iterator[StatisticsResult]:
    """Yield the results with statistics of the batch, as in training; those that a norm cannot have are left out."""
    for batch_size in config.batch_sizes:
        images = subject.test_images.first(MAX_SINGLE_IMAGES) if batch_size == 1 else subject.test_images
        with suppress(ValueError):  # one value per channel has no variance
            found = _with_batch_statistics(subject, batch_size).launch(images).result()
            yield StatisticsResult(
                weights="last", statistics="batch", batch_size=batch_size, num_images=len(images),
                accuracy=found.accuracy, loss=found.loss,
            )  # fmt: skip


def _with_batch_statistics(subject: Subject, batch_size: int) -> RepeatedEvaluation:
    """Return what evaluates with the statistics of each batch, as in training.

    Raises:
        ValueError: a norm cannot do with batches of this size.
    """
    model, images = as_trained(subject.model), subject.test_images
    repeated = RepeatedEvaluation(model, images, *_where(subject), batch_size, in_training_mode=True)
    repeated.warm_up_and_capture()
    return repeated


def _result(subject: Subject, weights: Weights, statistics: Statistics, found: Evaluation) -> StatisticsResult:
    return StatisticsResult(
        weights=weights, statistics=statistics, num_images=len(subject.test_images),
        accuracy=found.accuracy, loss=found.loss,
    )  # fmt: skip


def _corruptions(subject: Subject, config: EvaluateConfig, *, adapts: bool) -> Corruptions | None:
    """Return the results under every corruption in every severity; None where none were asked for."""
    if config.corruptions == "none":
        return None
    frozen = RepeatedEvaluation(subject.model, subject.test_images, *_where(subject))
    frozen.warm_up_and_capture()
    adapted = _with_batch_statistics(subject, EVALUATION_BATCH_SIZE) if adapts else None
    pending = []
    for kind in KINDS:
        for severity in SEVERITIES:
            images = corrupted(
                subject.test_images, kind, severity, config.corruption_seed, subject.official_corruptions
            )
            pending.append((kind, severity, frozen.launch(images), adapted.launch(images) if adapted else None))
    results = [
        CorruptionResult(
            kind=kind,
            severity=severity,
            accuracy=found.result().accuracy,
            adapted_accuracy=None if found_adapted is None else found_adapted.result().accuracy,
        )
        for kind, severity, found, found_adapted in pending
    ]
    is_generated = config.corruptions == "generated"
    return Corruptions(
        source=config.corruptions,
        seed=config.corruption_seed if is_generated else None,
        adapted_batch_size=EVALUATION_BATCH_SIZE,
        results=tuple(results),
    )


def _where(subject: Subject) -> tuple[DeviceName, Precision]:
    return subject.device, subject.precision
