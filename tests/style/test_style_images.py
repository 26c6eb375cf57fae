"""Reading anything that is a picture, and saying what is not."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from style_cases import photograph

from normbench.errors import FolderError
from normbench.style.drawings import STYLE_IMAGES
from normbench.style.images import (
    ImageError,
    crop_back,
    cut_to_square,
    pad_image,
    read_folder,
    read_image,
    read_style,
    write_image,
)


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (255, 0, 0, 0)
    pixels[0, 2] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    image = read_image(tmp_path / "alpha.png")
    assert image.shape == (2, 3, 3)
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[0, 2].tolist() == [127, 127, 127]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 100, 100), ("1", 1, 255), ("I;16", 257 * 70, 70), ("LA", (90, 255), 90), ("P", 0, 0)],
)
def test_grey_palette_and_16_bit_become_rgb(tmp_path: Path, mode: str, value: object, expected: int) -> None:
    Image.new(mode, (5, 4), value).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png")
    assert image.dtype == np.uint8
    assert image.shape == (4, 5, 3)
    assert (image == expected).all()


def test_cmyk_palette_transparency_and_rotation(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg").max() <= 2
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.gif", transparency=0)
    assert (read_image(tmp_path / "palette.gif") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(photograph(20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.png: not an image"):
        read_image(text)
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        read_image(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "empty.jpg")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_damaged_file_is_named_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"whole.{kind}"
    Image.fromarray(photograph()).save(whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    for share in (0.1, 0.3, 0.5):
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError, match=re.escape(str(cut))):
            read_image(cut)


def test_a_picture_of_absurd_size_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match=r"more than [\d,]+ pixels"):
        read_image(bomb)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 2), (33, 45), (64, 64)])
def test_padding_is_undone(height: int, width: int) -> None:
    image = photograph(height, width)
    padded = pad_image(image)
    assert padded.shape[0] % 4 == padded.shape[1] % 4 == 0
    assert min(padded.shape[:2]) >= 32
    assert np.array_equal(crop_back(padded, height, width), image)


def test_a_folder_gives_its_good_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(photograph(20 + number, 50)).save(tmp_path / f"{number}.png")
    (tmp_path / "1b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (tmp_path / "notes.txt").write_text("no image, and not called one")
    (tmp_path / "folder.png").mkdir()
    images, problems = read_folder(tmp_path, 16, at_most=10)
    assert images.shape == (3, 16, 16, 3)
    assert len(problems) == 1
    assert "1b.jpg" in problems[0]
    assert len(read_folder(tmp_path, 16, at_most=2)[0]) == 2


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such folder"):
        read_folder(tmp_path / "nowhere", 16, 10)
    with pytest.raises(ImageError, match="no image there"):
        read_folder(tmp_path, 16, 10)
    (tmp_path / "bad.png").write_text("bad")
    with pytest.raises(ImageError, match=r"1 cannot be read, such as .*bad\.png"):
        read_folder(tmp_path, 16, 10)


def test_the_middle_square_is_cut_out() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (cut_to_square(image, 8) == 200).all()
    assert cut_to_square(photograph(1, 1), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("name", STYLE_IMAGES)
def test_built_in_styles_are_colorful_and_always_the_same(name: str) -> None:
    image = read_style(name)
    assert image.shape == (256, 256, 3)
    assert image.dtype == np.uint8
    assert image.std(axis=(0, 1)).min() > 25
    assert np.array_equal(image, STYLE_IMAGES[name]())


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(ImageError, match=r"style image .*moasic: no such file.*mosaic, waves, strokes"):
        read_style("moasic")


def test_writing_is_whole_or_explained(tmp_path: Path) -> None:
    image = photograph()
    write_image(tmp_path / "new" / "out.png", image)
    assert np.array_equal(read_image(tmp_path / "new" / "out.png"), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.png"]
    with pytest.raises(ImageError, match=r"cannot write such a file; use \.png"):
        write_image(tmp_path / "out.xyz", image)
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be written"):
        write_image(tmp_path / "file" / "out.png", image)
