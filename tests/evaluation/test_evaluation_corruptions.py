"""Corruptions against formulas in NumPy, Pillow and SciPy; what is random, by its distribution."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from normbench.data.cifar_c import check_official, find_official, read_corruption
from normbench.engine.batches import DeviceImages
from normbench.errors import DataError, UnknownNameError
from normbench.evaluation.corruptions import KINDS, SEVERITIES, corrupt, corrupted
from normbench.evaluation.corruptions.blur import disk
from normbench.evaluation.corruptions.digital import sample
from normbench.evaluation.corruptions.filters import gaussian_blur, motion_trail, zoom_in
from normbench.evaluation.corruptions.weather import plasma


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Smooth images with edges, uint8 ``(6, 3, 32, 32)``."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(6, 3, 32, 32)), (0, 0, 3, 3), mode="wrap")
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    smooth[:, :, 8:20, 10:25] *= 0.6
    return torch.from_numpy((255 * smooth).astype(np.uint8))


def as_array(images: torch.Tensor) -> np.ndarray:
    """Images as NumPy has them, float64 ``(N, 32, 32, 3)`` from 0 to 1."""
    return images.permute(0, 2, 3, 1).numpy().astype(np.float64) / 255


def assert_same_levels(found: torch.Tensor, expected: np.ndarray, levels: float = 1.01) -> None:
    """Equal to a rounding of 8 bits."""
    assert np.abs(255 * as_array(found) - 255 * expected).max() <= levels


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_images_again_and_others_for_another_severity(kind, photographs) -> None:
    found = [corrupt(photographs, kind, severity, seed=1) for severity in SEVERITIES]
    assert all(image.dtype == torch.uint8 and image.shape == photographs.shape for image in found)
    assert torch.equal(found[2], corrupt(photographs, kind, 3, seed=1))
    damage = [float((image.float() - photographs.float()).abs().mean()) for image in found]
    assert damage[0] > 0.5
    assert damage[4] > damage[0] or kind == "elastic_transform"  # whose first severity moves corners furthest
    assert corrupt(photographs[:, :, :24, :24], kind, 3, seed=1).shape == (6, 3, 24, 24)  # images of a user's own


def test_an_unknown_kind_is_told_with_its_neighbour(photographs) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'glass_blur'"):
        corrupt(photographs, "glass_blurr", 1, 0)


def test_noise_has_the_deviation_the_counts_and_the_share_that_the_paper_has() -> None:
    gray = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    level = 128 / 255
    normal = as_array(corrupt(gray, "gaussian_noise", 3, 0))
    assert normal.mean() == pytest.approx(level - 0.5 / 255, abs=5e-4)  # 8 bits are cut off, not rounded
    assert normal.std() == pytest.approx(0.08, rel=0.01)
    shot = as_array(corrupt(gray, "shot_noise", 5, 0))
    assert shot.std() == pytest.approx(math.sqrt(level / 50), rel=0.01)
    impulse = corrupt(gray, "impulse_noise", 4, 0)
    assert float((impulse == 0).float().mean()) == pytest.approx(0.025, rel=0.05)
    assert float((impulse == 255).float().mean()) == pytest.approx(0.025, rel=0.05)


def test_contrast_and_brightness_are_their_formulas(photographs) -> None:
    x = as_array(photographs)
    means = x.mean(axis=(1, 2), keepdims=True)
    assert_same_levels(corrupt(photographs, "contrast", 4, 0), (x - means) * 0.3 + means)
    hsv = np.array([[Hsv.raised(pixel, 0.2) for pixel in row] for row in x[0]])
    assert_same_levels(corrupt(photographs[:1], "brightness", 4, 0), hsv[None])


class Hsv:
    """HSV by the standard library."""

    @staticmethod
    def raised(rgb: np.ndarray, by: float) -> tuple[float, float, float]:
        import colorsys

        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + by))


def test_defocus_is_a_correlation_with_the_disk(photographs) -> None:
    kernel = disk(1.5, 0.1)
    assert kernel.sum() == pytest.approx(1)
    assert (kernel[7:10, 7:10] > 0.11).all()  # radius 1.5 holds 3x3 pixels
    blurred = ndimage.correlate(as_array(photographs), kernel[None, :, :, None], mode="mirror")
    assert_same_levels(corrupt(photographs, "defocus_blur", 5, 0), blurred)


@pytest.mark.parametrize(("border", "mode"), [("repeat", "nearest"), ("reflect", "reflect"), ("mirror", "mirror")])
def test_gaussian_blur_is_scipys(border, mode) -> None:
    x = np.random.default_rng(1).random((2, 3, 20, 20))
    expected = ndimage.gaussian_filter(x, (0, 0, 1.3, 1.3), mode=mode, truncate=3)
    found = gaussian_blur(torch.from_numpy(x), 1.3, border, truncate=3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.04, 1.13, 1.25, 2.25])
def test_zooming_is_scipys(factor: float) -> None:
    x = np.random.default_rng(2).random((32, 32))
    inner = math.ceil(32 / factor)
    top = (32 - inner) // 2
    large = ndimage.zoom(x[top : top + inner, top : top + inner], factor, order=1)
    trim = (len(large) - 32) // 2
    found = zoom_in(torch.from_numpy(x)[None, None], factor)
    np.testing.assert_allclose(found[0, 0].numpy(), large[trim : trim + 32, trim : trim + 32], atol=1e-9)


@pytest.mark.parametrize("border", ["reflect", "mirror"])
def test_sampling_between_pixels_is_scipys(border: str) -> None:
    rng = np.random.default_rng(3)
    x, places = rng.random((16, 16)), rng.uniform(-6, 21, (2, 16, 16))
    expected = ndimage.map_coordinates(x, places, order=1, mode=border)
    rows, columns = torch.from_numpy(places)[:, None]
    np.testing.assert_allclose(
        sample(torch.from_numpy(x)[None, None], rows, columns, border)[0, 0], expected, atol=1e-9
    )


def test_glass_takes_every_pixel_from_at_most_as_far_as_it_moves(photographs) -> None:
    """Without its blurs, as at the first severity, whose kernel is a single pixel."""
    found, x = corrupt(photographs, "glass_blur", 1, 0), photographs
    moved = torch.stack([x.roll((down, right), (2, 3)) for down in (0, 1) for right in (0, 1)])
    assert ((found == moved).all(2).any(0))[:, 2:, 2:].all()  # a pixel moves with all its channels
    assert torch.equal(found[:, :, :2], x[:, :, :2])
    assert torch.equal(found[:, :, :, :2], x[:, :, :, :2])


def test_a_trail_runs_along_its_angle_with_half_a_normal_curve() -> None:
    x = torch.zeros(2, 1, 9, 9)
    x[:, :, 4, 4] = 1
    found = motion_trail(x, 1, 1.0, torch.tensor([0.0, 90.0]))
    weights = np.exp(-0.5 * np.arange(3) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(found[0, 0, 4, 2:5], weights[::-1], rtol=1e-6)
    np.testing.assert_allclose(found[1, 0, 2:5, 4], weights[::-1], rtol=1e-6)
    assert float(found.sum()) == pytest.approx(2)


def test_zoom_blur_is_the_mean_of_the_image_and_its_enlargements(photographs) -> None:
    x = photographs.double() / 255
    zooms = [zoom_in(x, factor) for factor in np.arange(1, 1.06, 0.01)]
    expected = (x + sum(zooms)) / (len(zooms) + 1)
    assert_same_levels(corrupt(photographs, "zoom_blur", 1, 0), expected.permute(0, 2, 3, 1).numpy())


def test_pixelation_is_pillows(photographs) -> None:
    expected = []
    for image in photographs.permute(0, 2, 3, 1).numpy():
        small = Image.fromarray(image).resize((20, 20), Image.Resampling.BOX)
        expected.append(np.asarray(small.resize((32, 32), Image.Resampling.BOX)) / 255)
    assert_same_levels(corrupt(photographs, "pixelate", 5, 0), np.array(expected), levels=2.01)


@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (5, 40)])
def test_jpeg_is_close_to_that_of_a_real_encoder(severity, quality, photographs) -> None:
    """Not equal: libjpeg rounds and enlarges colors a little differently."""
    expected = []
    for image in photographs.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        expected.append(np.asarray(Image.open(buffer)) / 255)
    difference = 255 * np.abs(as_array(corrupt(photographs, "jpeg_compression", severity, 0)) - np.array(expected))
    damage = 255 * np.abs(as_array(photographs) - np.array(expected))
    assert difference.mean() < 0.25 * damage.mean()


def test_fog_scales_the_brightest_value_back_and_its_fractal_spans_from_0_to_1(photographs) -> None:
    fractal = plasma(4, 32, 2.0, torch.Generator().manual_seed(0))
    assert torch.equal(fractal.amin((1, 2)), torch.zeros(4))
    assert torch.equal(fractal.amax((1, 2)), torch.ones(4))
    neighbours = (fractal[:, 1:] - fractal[:, :-1]).abs().mean()
    far = (fractal - fractal.roll(16, 1)).abs().mean()
    assert neighbours < 0.4 * far  # smooth, not noise
    foggy = corrupt(photographs, "fog", 5, 0)
    assert (foggy.amax((1, 2, 3)) <= photographs.amax((1, 2, 3))).all()


def test_snow_and_frost_brighten(photographs) -> None:
    for kind in ("snow", "frost"):
        brightness = [float(corrupt(photographs, kind, severity, 0).float().mean()) for severity in (1, 2)]
        assert float(photographs.float().mean()) < brightness[0] < brightness[1]


def write_official(folder, labels, *, images=None) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    if images is not None:
        np.save(folder / "fog.npy", images)


def test_the_official_files_are_found_checked_and_read_by_severity(tmp_path) -> None:
    labels = np.arange(10_000) % 10
    every = np.zeros((50_000, 32, 32, 3), np.uint8)
    every[:, 0, 0, 0] = np.arange(50_000) // 10_000
    write_official(tmp_path / "CIFAR-10-C", labels, images=every)
    folder = find_official("cifar10", tmp_path)
    images = DeviceImages(np.zeros((10_000, 32, 32, 3), np.uint8), labels, "cpu", channels_last=True)
    found = corrupted(images, "fog", 4, 0, folder)
    assert found.images.shape == (10_000, 3, 32, 32)
    assert (found.images[:, 0, 0, 0] == 3).all()
    assert torch.equal(found.labels, images.labels)
    with pytest.raises(DataError, match="of other images"):
        read_corruption(folder, "fog", 1, np.roll(labels, 1))
    with pytest.raises(DataError, match=r"snow\.npy: no such file"):
        read_corruption(folder, "snow", 1, labels)
    np.save(folder / "fog.npy", every[:10])
    with pytest.raises(DataError, match=r"uint8 \(10, 32, 32, 3\), not bytes"):
        read_corruption(folder, "fog", 1, labels)
    (folder / "fog.npy").write_bytes(b"\x80\x04K\x01.")  # a pickle is not executed
    with pytest.raises(DataError, match="damaged or no npy"):
        read_corruption(folder, "fog", 1, labels)


@pytest.fixture(scope="module")
def official_folder(tmp_path_factory):
    """CIFAR-10-C with `fog` and `snow`; the images lie in a hole of their files, which take no place on disk."""
    folder = tmp_path_factory.mktemp("official") / "CIFAR-10-C"
    write_official(folder, np.arange(10_000) % 10)
    for kind in ("fog", "snow"):
        with (folder / f"{kind}.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (50_000, 32, 32, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 50_000 * 3072)
    return folder


def test_the_official_files_are_checked_as_a_whole_without_reading_images(official_folder) -> None:
    check_official(official_folder, ("fog", "snow"), np.arange(10_000) % 10)
    with pytest.raises(DataError, match=r"frost\.npy: no such file"):
        check_official(official_folder, ("fog", "frost"), np.arange(10_000) % 10)
    with pytest.raises(DataError, match="of other images"):
        check_official(official_folder, ("fog",), np.arange(9_999) % 10)


@pytest.mark.parametrize("name", ["fog.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["cut", "objects"])
def test_an_official_file_that_is_cut_or_holds_objects_is_refused(official_folder, tmp_path, name, damage) -> None:
    for file in official_folder.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / name).unlink()
    if damage == "cut":
        with (official_folder / name).open("rb") as file:
            (tmp_path / name).write_bytes(file.read(10_000))
    else:
        np.save(tmp_path / name, np.array([print] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=rf"{name}: damaged or no npy file"):
        check_official(tmp_path, ("fog",), np.arange(10_000) % 10)


def test_missing_official_files_are_told_with_both_ways_out(tmp_path) -> None:
    with pytest.raises(DataError, match=r"zenodo(.|\n)*corruptions: generated"):
        find_official("cifar10", tmp_path)
    with pytest.raises(DataError, match="no official corruptions of synthetic"):
        find_official("synthetic", tmp_path)
