"""``normbench data``: where CIFAR-10 is, downloading it, and bringing in a copy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.options import DataDirOption, JsonOption

if TYPE_CHECKING:
    from normbench.data.fetch import FetchProgress

app = typer.Typer(help="Find, download or import CIFAR-10.", no_args_is_help=True)


@app.command()
def info(data_dir: DataDirOption = None, json_output: JsonOption = False) -> None:
    """Say where CIFAR-10 is looked for, what is there, and whether it is the real one."""
    from normbench.data.formats import format_name
    from normbench.data.locate import find_cifar10, places, searched
    from normbench.errors import DataError

    candidates = places(data_dir)
    rows = [
        {
            "named_by": place.named_by,
            "folder": str(place.folder),
            "found": found.name if (found := place.find()) else None,
            "searched": place in searched(candidates),
        }
        for place in candidates
    ]
    try:
        path = find_cifar10(data_dir)
        in_use = {"path": str(path), "format": format_name(path), **_measure(path)}
        problem = None
    except DataError as error:
        in_use, problem = None, error
    if json_output:
        print(json.dumps({"schema_version": 1, "places": rows, "cifar10": in_use}, indent=2))
    else:
        _print_info(rows, in_use)
    if problem:
        raise problem


@app.command()
def fetch(
    data_dir: DataDirOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="NORMBENCH_CIFAR10_URL",
            help="Mirror of the archive; the official host if absent.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download CIFAR-10 (170 MB), going on where a broken download stopped, and check it."""
    from normbench.data.cifar10 import import_cifar10
    from normbench.data.fetch import DEFAULT_URL, fetch_cifar10
    from normbench.data.locate import NPZ_FILE, folder_to_write

    folder = folder_to_write(data_dir)
    if os.path.isfile(folder / NPZ_FILE):
        print(f"CIFAR-10 is there already: {folder / NPZ_FILE} (`normbench data info` checks it)")
        return
    with _progress() as on_progress:
        archive = fetch_cifar10(url or DEFAULT_URL, folder, on_progress)
    print("checked; unpacking ...", file=sys.stderr)
    path = import_cifar10(archive, folder)
    archive.unlink()  # the npz holds the same images and loads in a fraction of a second
    print(f"CIFAR-10 is in {path}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="An .npz, the official .tar.gz, or cifar-10-batches-py.")],
    data_dir: DataDirOption = None,
) -> None:
    """Check a copy of CIFAR-10 and keep it where NormBench finds it."""
    from normbench.data.cifar10 import import_cifar10
    from normbench.data.locate import folder_to_write

    print(f"CIFAR-10 is in {import_cifar10(Path(os.path.expanduser(path)), folder_to_write(data_dir))}")


def _measure(path: Path) -> dict[str, Any]:
    """Read the images and describe them."""
    import numpy as np

    from normbench.data.cifar10 import CLASS_NAMES, SHA256
    from normbench.data.formats import fingerprint, read_arrays
    from normbench.data.images import channel_mean_std

    arrays = read_arrays(path)
    mean, std = channel_mean_std(arrays.x_train)
    sha256 = fingerprint(arrays)
    return {
        "num_train": len(arrays.x_train),
        "num_test": len(arrays.x_test),
        "train_per_class": dict(zip(CLASS_NAMES, np.bincount(arrays.y_train).tolist(), strict=True)),
        "test_per_class": dict(zip(CLASS_NAMES, np.bincount(arrays.y_test).tolist(), strict=True)),
        "channel_mean": [round(value, 5) for value in mean],
        "channel_std": [round(value, 5) for value in std],
        "sha256": sha256,
        "is_genuine": sha256 == SHA256,
    }


def _print_info(rows: list[dict[str, Any]], found: dict[str, Any] | None) -> None:
    for row in rows:
        unused = "" if row["searched"] else f"   (not looked at: {rows[0]['named_by']} is given)"
        print(f"{row['named_by']:<20} {row['found'] or 'nothing':<24} {row['folder']}{unused}")
    if found is None:
        return
    print()
    for name, text in (
        ("in use", f"{found['path']} ({found['format']})"),
        ("images", f"{found['num_train']:,} training, {found['num_test']:,} test, 32x32 RGB"),
        ("classes", ", ".join(found["train_per_class"])),
        ("per class", f"{_span(found['train_per_class'])} training, {_span(found['test_per_class'])} test"),
        ("mean (R, G, B)", ", ".join(f"{value:.4f}" for value in found["channel_mean"])),
        ("std (R, G, B)", ", ".join(f"{value:.4f}" for value in found["channel_std"])),
        ("sha256", found["sha256"]),
        (
            "genuine",
            "yes, every image and label" if found["is_genuine"] else "NO: these are not CIFAR-10's images and labels",
        ),
    ):
        print(f"{name:<20} {text}")


def _span(sizes: dict[str, int]) -> str:
    low, high = min(sizes.values()), max(sizes.values())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@contextmanager
def _progress() -> Iterator[Callable[[FetchProgress], None]]:
    """Show a download on standard error: a live bar on a terminal, a line every tenth off it."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("CIFAR-10"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("CIFAR-10", total=None)

        def show(progress: FetchProgress) -> None:
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)
            if progress.note:
                bar.console.print(progress.note, markup=False)

        yield show


def _plain_lines() -> Callable[[FetchProgress], None]:
    shown_tenths = -1

    def show(progress: FetchProgress) -> None:
        nonlocal shown_tenths
        tenths = 10 * progress.done_bytes // progress.total_bytes
        if tenths > shown_tenths or progress.note:
            shown_tenths = max(tenths, shown_tenths)
            line = f"CIFAR-10: {progress.done_bytes / 1e6:.1f} of {progress.total_bytes / 1e6:.1f} MB"
            print(f"{line}; {progress.note}" if progress.note else line, file=sys.stderr, flush=True)

    return show
