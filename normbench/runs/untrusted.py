"""Reads record files as what they are: files that a disk, a person or a stranger may have changed.

Only regular files are read, no more of them than a record may hold, no deeper than a record nests, and text without
control characters. Whatever is wrong is a `RunError` that names the file.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from normbench.config.bounds import MAX_DEPTH, MAX_INTEGER
from normbench.errors import shown
from normbench.runs.bundle_file import find_bundle
from normbench.runs.regular_files import damaged, open_regular

MAX_BYTES = 16 * 2**20
"""The most bytes of a JSON file, and of the pictures of a run."""
MAX_YAML_BYTES = 2 * 2**20
MAX_YAML_VALUES = 200_000
"""The most values of a YAML file, an alias counted as often as it is used."""
MAX_PICTURE_BYTES = 256 * 2**20

Model = TypeVar("Model", bound=BaseModel)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file, or of a bundle's member, of at most `limit` bytes.

    Raises:
        RunError: there is none that can be read.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size <= limit and len(content := file.read(limit + 1)) <= limit:
                return content
    except OSError as error:
        if found := find_bundle(path):
            return found.bundle.read(found.name, limit)
        raise damaged(path, error.strerror or str(error)) from None
    raise damaged(path, f"larger than the {limit:,} bytes that it may have")


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Return what a JSON file says.

    Raises:
        RunError: it cannot be read, or is no JSON.
    """
    try:
        return _plain(json.loads(read_bytes(path, limit)))
    except (ValueError, RecursionError) as error:
        raise damaged(path, _reason(error)) from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says, by libyaml where PyYAML has it: ten times faster, which a thousand runs notice.

    Raises:
        RunError: it cannot be read, or is no YAML.
    """
    content = read_bytes(path, MAX_YAML_BYTES)
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        _check_size(yaml.parse(content, Loader=loader))
        return _plain(yaml.load(content, Loader=loader))
    except Exception as error:  # PyYAML's constructors let through whatever int(), date() and dict() raise
        raise damaged(path, _reason(error)) from None


def _check_size(events: Any) -> None:
    """Count the values of a YAML document before any is made, each alias as all that it stands for."""
    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = []  # the anchor of each collection begun, and its values until now
    for event in events:
        size = 1
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1))
            if len(open_) > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, MAX_YAML_VALUES)  # an alias to what contains it is not known yet
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor is not None:
            sizes[anchor] = size
        if open_:
            open_[-1] = open_[-1][0], open_[-1][1] + size
        if size >= MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES:,} values")


def _plain(value: Any, depth: int = 0) -> Any:
    """Return `value`, which JSON could hold too, with text that can be printed in one line."""
    if isinstance(value, str):
        return shown(" ".join(value.splitlines()))
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError("an integer of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")  # records hold those as text, which all can read
    if isinstance(value, dict | list) and depth == MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return {_plain(key, depth + 1): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1) for inner in value]
    if not isinstance(value, bool | int | float | None):
        raise ValueError(f"a value of type {type(value).__name__}")
    return value


def read_pictures(path: Path) -> Mapping[str, NDArray[np.uint8]]:
    """Return the arrays of bytes that an npz file holds, by name; each header is checked before its data is read.

    Raises:
        RunError: it cannot be read, or holds anything else.
    """
    content = read_bytes(path, MAX_BYTES)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            found, left = {}, MAX_PICTURE_BYTES
            for member in archive.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("an unknown compression")
                with archive.open(member) as file:
                    array = _read_array(file, left)
                left -= array.nbytes
                found[member.filename.removesuffix(".npy")] = array
            return found
    except Exception as error:  # NumPy's parser of headers lets through whatever Python's own raises
        raise damaged(path, _reason(error)) from None


def _read_array(file: IO[bytes], limit: int) -> NDArray[np.uint8]:
    if np.lib.format.read_magic(file) != (1, 0):  # later versions have headers of any length
        raise ValueError("an unknown version of npy")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    size = math.prod(shape)
    if dtype != np.uint8 or is_fortran or min(shape, default=1) < 0 or size > limit:
        raise ValueError(f"an array of type {dtype} and shape {shape}, not a picture")
    return np.frombuffer(file.read(size), np.uint8, size).reshape(shape)


def _reason(error: Exception) -> str:
    """Return what is wrong in a line, without pydantic's links and PyYAML's excerpt of the file."""
    if isinstance(error, yaml.MarkedYAMLError):
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return f"{where}{error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error) or type(error).__name__


def checked(model: type[Model], value: Any, path: Path) -> Model:
    """Return `value`, which `path` holds, as a `model`.

    Raises:
        RunError: it is none.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise damaged(path, describe_problem(error)) from None
    except (ValueError, TypeError, ArithmeticError) as error:
        raise damaged(path, str(error)) from None


def describe_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found: ``test_accuracy: Input should be less than or equal to 1``."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
