"""The feature networks: which maps are compared, that they are frozen, and what is wrong with a bad one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench.errors import ConfigError, DataError, RunError
from normbench.models import build_model
from normbench.norms import make_norm
from normbench.style.features import FeatureNetwork, resnet9_features, vgg16_features

IMAGES = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_resnet9_gives_the_maps_of_the_trained_network(features_run: Path) -> None:
    features = resnet9_features(features_run)
    network = build_model("resnet9", norm=make_norm("bn"))
    network.load_state_dict(torch.load(features_run / "checkpoint.pt", weights_only=True)["model"])
    network.eval()
    content, style = features(IMAGES)
    x, expected = IMAGES, []
    with torch.no_grad():
        for position in range(7):
            x = network.features[position](x)
            expected.append(x)
    for maps, position in zip(style, (0, 1, 3, 4, 6), strict=True):
        torch.testing.assert_close(maps, expected[position], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(content, expected[3], rtol=1e-4, atol=1e-5)
    assert content.shape == (2, 128, 24, 20)


def test_a_feature_network_is_frozen_but_hands_gradients_on(features_run: Path) -> None:
    features = resnet9_features(features_run)
    before = {name: value.clone() for name, value in features.state_dict().items()}
    images = IMAGES.clone().requires_grad_()
    sum(maps.square().mean() for maps in features(images).style).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not features.training
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())


def test_images_are_normalized_as_the_network_was_trained() -> None:
    features = FeatureNetwork(
        [nn.Identity()], content_layer=0, style_layers=(0,), mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1)
    )
    white = features(torch.ones(1, 3, 1, 1)).content.flatten()  # 1 is white, on the scale 0 to 1 it is 1 too
    torch.testing.assert_close(white, torch.tensor([1.0, 3.0, 8.0]))


def test_vgg16_from_a_file_of_torchvisions_weights(tmp_path: Path) -> None:
    """The same maps as torchvision's network gives behind relu1_2, 2_2, 3_3 and 4_3."""
    from torchvision.models import vgg

    torch.manual_seed(0)
    network = vgg.make_layers(vgg.cfgs["D"])[:23].eval()
    file = tmp_path / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, file)
    content, style = vgg16_features(file)(IMAGES)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x, relus = ((IMAGES + 1) / 2 - mean) / std, []
    with torch.no_grad():
        for layer in network:
            x = layer(x.clone())
            if isinstance(layer, nn.ReLU):
                relus.append(x)
    for maps, number in zip(style, (1, 3, 6, 9), strict=True):
        torch.testing.assert_close(maps, relus[number], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(content, relus[6], rtol=1e-4, atol=1e-5)


def test_bad_vgg16_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nothing\.pth: cannot be read"):
        vgg16_features(tmp_path / "nothing.pth")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(DataError, match="not the weights of torchvision's VGG-16"):
        vgg16_features(other)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(
        DataError, match=r"(?s)cannot be downloaded.*no route to host.*--vgg16-weights FILE.*--features"
    ):
        vgg16_features(None)


def test_runs_that_cannot_serve_are_named(tmp_path: Path, make_features_run: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        resnet9_features(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a readable run folder"):
        resnet9_features(tmp_path)
    with pytest.raises(ConfigError, match="trained norm_resnet; it takes a resnet9"):
        resnet9_features(make_features_run(model="norm_resnet", checkpoint=False))
    with pytest.raises(ConfigError, match="ln_chw fits images of 32x32 only"):
        resnet9_features(make_features_run("ln_chw", checkpoint=False))
    run = make_features_run("gn", checkpoint=False)
    with pytest.raises(DataError, match="--keep-checkpoint"):
        resnet9_features(run)
    (run / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="cannot be read"):
        resnet9_features(run)
    torch.save({"model": {"other": torch.zeros(1)}}, run / "checkpoint.pt")
    with pytest.raises(DataError, match="not the checkpoint of this run"):
        resnet9_features(run)
