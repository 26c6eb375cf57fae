"""The training of a style-transfer network: the perceptual loss of its output, on batches of content images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from normbench.config.schema import TrainConfig
from normbench.config.style import StyleTrainConfig
from normbench.engine.batches import DeviceImages, epoch_order, normalize
from normbench.engine.device import DeviceName, Precision, resolve_engine
from normbench.engine.step.build import build_step
from normbench.engine.step.objective import Outcome
from normbench.engine.step.state import StepSettings
from normbench.engine.trainer import Totals
from normbench.errors import DivergedError
from normbench.runs.events import TrainingDone
from normbench.style.apply import contrast_changes, stylize_all
from normbench.style.features import FeatureNetwork, Features
from normbench.style.images import MARGIN, Pixels, pad_image
from normbench.style.losses import content_loss, gram_matrix, style_loss, total_variation
from normbench.tasks.style_transfer import StyleSummary
from normbench.tasks.task import EpochRow


class Stylized(NamedTuple):
    """A batch's stylized images, what the feature network sees of them, and of the content images."""

    images: Tensor
    features: Features
    content: Tensor


class PerceptualLoss:
    """Losses of a style network: their weighted sum, then content, style and total variation, unweighted."""

    num_losses = 4
    has_accuracy = False

    def __init__(self, features: FeatureNetwork, style_image: Tensor, config: StyleTrainConfig) -> None:
        self._features = features
        self._config = config
        with torch.no_grad():
            self._style_grams = [gram_matrix(maps) for maps in features(style_image).style]

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Stylized:
        """Stylize content images ``(N, 3, H, W)`` in [-1, 1], and look at both through the feature network."""
        with torch.no_grad():
            content = self._features.content(images)
        stylized = model(images)
        return Stylized(stylized, self._features(stylized), content)

    def outcome(self, outputs: Stylized, labels: Tensor) -> Outcome:
        """Return the losses; content images have no labels that count."""
        config = self._config
        content = content_loss(outputs.features.content, outputs.content)
        style = style_loss(outputs.features.style, self._style_grams)
        variation = total_variation(outputs.images)
        total = (
            config.content_weight * content + config.style_weight * style + config.total_variation_weight * variation
        )
        return Outcome((total, content, style, variation))


class StyleTraining:
    """Trains a network on content images, and stylizes some that it has not seen when it is done.

    It is one epoch of `config.steps` whole batches. The order of the content images depends on the seed and never on
    the norm.

    Args:
        network: the style network.
        features: what the loss looks through.
        style: the style image, ``(S, S, 3)``.
        content: the images to train on, on the device.
        shown: the images to stylize at the end, ``(N, H, W, 3)``.
        config: how to train.
        seed: of the order.
        device: where everything takes place; that of `content`.
        precision: of the step.
    """

    num_epochs = 1

    def __init__(
        self,
        network: nn.Module,
        features: FeatureNetwork,
        style: Pixels,
        content: DeviceImages,
        shown: Pixels,
        config: StyleTrainConfig,
        *,
        seed: int,
        device: DeviceName,
        precision: Precision,
    ) -> None:
        self._style = style
        self._content = content
        self._shown = shown
        self._seed = seed
        self._learning_rate = config.learning_rate
        place = content.labels.device
        network = network.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        features = features.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = normalize(torch.from_numpy(style).to(place).permute(2, 0, 1)[None])
        settings = StepSettings(
            batch_size=config.batch_size,
            num_images=config.steps * config.batch_size,
            num_epochs=self.num_epochs,
            learning_rates=None,
            augment=False,
            device=device,
            precision=precision,
            engine=resolve_engine(config.engine, device),
        )
        train = TrainConfig(optimizer="adam", learning_rate=config.learning_rate)
        self.step = build_step(network, PerceptualLoss(features, image, config), content, train, settings)

    def draw_epoch(self, epoch: int) -> tuple[Tensor, None]:
        """Return the order of the content images; they are not augmented."""
        return repeated_order(len(self._content), self.step.settings.num_images, self._seed), None

    def warm_up(self) -> None:
        """Do nothing: there is no evaluation."""

    def capture_evaluation(self) -> None:
        """Do nothing: there is none to be captured."""

    def launch_evaluation(self) -> None:
        """Do nothing: the training is not counted in epochs."""

    def summarize(self, totals: Totals, rows: Sequence[EpochRow], losses: Sequence[tuple[float, ...]]) -> TrainingDone:
        """Return the losses of the last tenth of the steps, and how the network changes the images to show."""
        last = torch.tensor(losses[-max(1, len(losses) // 10) :]).mean(dim=0).tolist()
        network, place = self.step.model, self._content.labels.device
        samples = {"content": self._shown, "stylized": stylize_all(network, self._shown), "style": self._style}
        padded = torch.from_numpy(np.stack([pad_image(image) for image in self._shown])).to(place).permute(0, 3, 1, 2)
        change = contrast_changes(network, normalize(padded), margin=MARGIN)
        if not all(map(math.isfinite, change.values())):  # each loss was measured before its step was made
            rate = f"learning rate {self._learning_rate:.3g}"
            raise DivergedError(f"after the last step ({len(losses)}; {rate}) the network's output is not finite")
        summary = StyleSummary(
            total_loss=last[0],
            content_loss=last[1],
            style_loss=last[2],
            total_variation=last[3],
            contrast_change=change,
            **asdict(totals),
        )
        return TrainingDone(summary, samples)

    def name_step(self, epoch: int, step: int) -> str:
        """Return how a message names a step."""
        return f"step {step} of {self.step.settings.num_steps}"

    def rate_of(self, step: int) -> float:
        """Return the learning rate, which stays what it is."""
        return self._learning_rate


def repeated_order(num_images: int, num_places: int, seed: int) -> Tensor:
    """Return which image each place has, int64 ``(num_places,)``: every image once before any comes again."""
    num_epochs = -(-num_places // num_images)
    return torch.cat([epoch_order(num_images, seed, epoch) for epoch in range(num_epochs)])[:num_places]
