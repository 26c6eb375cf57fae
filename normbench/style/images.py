"""Reading and writing pictures of any kind and size, as uint8 RGB arrays ``(H, W, 3)``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.errors import DataError, FolderError
from normbench.runs.atomic import write_atomically
from normbench.runs.regular_files import open_regular
from normbench.style.drawings import STYLE_IMAGES

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

MARGIN = 16
"""Pixels by which an image is padded on each side before it is stylized: a border shows in the network's output."""
MULTIPLE = 4
"""The number of pixels that height and width are padded to a multiple of."""


class ImageError(DataError):
    """A file is not an image, or a damaged one."""


def read_image(path: Path) -> Pixels:
    """Read an image file of any kind that Pillow knows; the first frame of a moving one, turned as its EXIF data says.

    Transparent pixels are laid on white; grey, CMYK, palette and 16-bit images become RGB of 8 bits.

    Raises:
        ImageError: it does not exist, is not an image, is damaged, or is larger than Pillow deems safe; or it is a
            program in PostScript, which Pillow would have Ghostscript carry out.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd metadata does not matter here
            with open_regular(path) as file, Image.open(file) as image:
                if image.format == "EPS":
                    raise ValueError("PostScript is not carried out")
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's readers let through whatever a damaged file leads them to
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{path}: cannot be read as an image: {reason or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits: "I;16" or, from PNG files, "I"
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def read_style(name: str) -> Pixels:
    """Return the style image `name`: one of `STYLE_IMAGES`, or a file.

    Raises:
        ImageError: it is neither.
    """
    if name in STYLE_IMAGES:
        return STYLE_IMAGES[name]()
    try:
        return read_image(Path(name))
    except ImageError as error:
        raise ImageError(f"style image {error} (a file, or one of {', '.join(STYLE_IMAGES)})") from None


def read_folder(folder: Path, size: int, at_most: int) -> tuple[Pixels, list[str]]:
    """Read the images of a folder, by name, each cut and scaled to `size`; return them and what is wrong with others.

    Files whose name does not end like an image's are not looked at.

    Returns:
        The images ``(N, size, size, 3)``, N being `at_most` or less, and a line about each damaged file.

    Raises:
        ImageError: there is no such folder, or no readable image in it.
    """
    from PIL import Image

    if not os.path.isdir(folder):
        raise ImageError(f"{folder}: no such folder")
    suffixes = Image.registered_extensions()
    images, problems = [], []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read: {error.strerror}") from None
    for path in paths:
        if path.suffix.lower() not in suffixes or not os.path.isfile(path):
            continue
        try:
            images.append(cut_to_square(read_image(path), size))
        except ImageError as error:
            problems.append(str(error))
        if len(images) == at_most:
            break
    if not images:
        damaged = f" ({len(problems)} cannot be read, such as {problems[0]})" if problems else ""
        raise ImageError(f"{folder}: no image there{damaged}")
    return np.stack(images), problems


def cut_to_square(image: Pixels, size: int) -> Pixels:
    """Cut the middle square out of an image and scale it to ``(size, size, 3)``."""
    from PIL import Image

    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.BICUBIC))


def resize_all(images: Iterable[Pixels], size: int) -> Pixels:
    """Scale images to ``(N, size, size, 3)``."""
    return np.stack([cut_to_square(image, size) for image in images])


def pad_image(image: Pixels) -> Pixels:
    """Mirror an image over its borders by `MARGIN` and up to a multiple of `MULTIPLE`."""
    (height, width), margin = image.shape[:2], MARGIN
    padding = ((margin, margin + -height % MULTIPLE), (margin, margin + -width % MULTIPLE), (0, 0))
    return np.pad(image, padding, mode="symmetric")  # mirrors as often as it takes: a single pixel too


def crop_back(image: Pixels, height: int, width: int) -> Pixels:
    """Undo `pad_image` for an image that was ``(height, width, 3)``."""
    return image[MARGIN : MARGIN + height, MARGIN : MARGIN + width]


def write_image(path: Path, image: Pixels) -> None:
    """Write an image whole or not at all; the kind of file is that of the name's end.

    Raises:
        FolderError: it cannot be written there.
        ImageError: there is no such kind of image file.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ImageError(f"{path}: cannot write such a file; use .png or .jpg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: Image.fromarray(image).save(file, kind))
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error
