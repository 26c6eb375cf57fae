"""``normbench data``: where CIFAR-10 or CIFAR-100 is, downloading it, and bringing in a copy."""

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
    from normbench.data.official import Official

app = typer.Typer(help="Find, download or import CIFAR-10 or CIFAR-100.", no_args_is_help=True)


DatasetOption = Annotated[str, typer.Option("--dataset", help="cifar10 or cifar100.")]


def _official(name: str) -> Official:
    from normbench.data.official import OFFICIAL
    from normbench.registry import find

    return find("dataset", name, OFFICIAL)


@app.command()
def info(dataset: DatasetOption = "cifar10", data_dir: DataDirOption = None, json_output: JsonOption = False) -> None:
    """Say where a data set is looked for, what is there, and whether it is the real one."""
    from normbench.data.formats import format_name
    from normbench.data.locate import find_cifar, places, searched
    from normbench.errors import DataError

    official = _official(dataset)
    candidates = places(data_dir)
    rows = [
        {
            "named_by": place.named_by,
            "folder": str(place.folder),
            "found": found.name if (found := place.find(official)) else None,
            "searched": place in searched(candidates),
        }
        for place in candidates
    ]
    try:
        path = find_cifar(data_dir, official)
        in_use = {"path": str(path), "format": format_name(path, official), **_measure(path, official)}
        problem = None
    except DataError as error:
        in_use, problem = None, error
    if json_output:
        print(json.dumps({"schema_version": 1, "places": rows, official.key: in_use}, indent=2))
    else:
        _print_info(rows, in_use)
    if problem:
        raise problem


@app.command()
def fetch(
    dataset: DatasetOption = "cifar10",
    data_dir: DataDirOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Mirror of the archive; if absent, NORMBENCH_CIFAR10_URL or NORMBENCH_CIFAR100_URL, or else the "
            "official host.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download a data set (170 MB), going on where a broken download stopped, and check it."""
    from normbench.data.cifar import import_cifar
    from normbench.data.fetch import fetch_cifar
    from normbench.data.locate import folder_to_write

    official, folder = _official(dataset), folder_to_write(data_dir)
    if os.path.isfile(folder / official.npz_file):
        print(f"{official.label} is there already: {folder / official.npz_file} (`normbench data info` checks it)")
        return
    address = url or os.environ.get(official.url_variable) or official.url
    with _progress(official) as on_progress:
        archive = fetch_cifar(address, folder, on_progress, official=official)
    print("checked; unpacking ...", file=sys.stderr)
    path = import_cifar(archive, folder, official)
    archive.unlink()  # the npz holds the same images and loads in a fraction of a second
    print(f"{official.label} is in {path}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="An .npz, the official .tar.gz, or the folder in it.")],
    dataset: DatasetOption = "cifar10",
    data_dir: DataDirOption = None,
) -> None:
    """Check a copy of a data set and keep it where NormBench finds it."""
    from normbench.data.cifar import import_cifar
    from normbench.data.locate import folder_to_write

    official = _official(dataset)
    target = import_cifar(Path(os.path.expanduser(path)), folder_to_write(data_dir), official)
    print(f"{official.label} is in {target}")


def _measure(path: Path, official: Official) -> dict[str, Any]:
    """Read the images and describe them."""
    import numpy as np

    from normbench.data.cifar import SHA256, class_names
    from normbench.data.formats import fingerprint, read_arrays
    from normbench.data.images import channel_mean_std

    arrays, names = read_arrays(path, official), class_names(official)
    mean, std = channel_mean_std(arrays.x_train)
    sha256 = fingerprint(arrays)
    return {
        "num_train": len(arrays.x_train),
        "num_test": len(arrays.x_test),
        "train_per_class": dict(zip(names, np.bincount(arrays.y_train).tolist(), strict=True)),
        "test_per_class": dict(zip(names, np.bincount(arrays.y_test).tolist(), strict=True)),
        "channel_mean": [round(value, 5) for value in mean],
        "channel_std": [round(value, 5) for value in std],
        "sha256": sha256,
        "is_genuine": sha256 == SHA256 if official.key == "cifar10" else None,
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
        ("genuine", _GENUINE[found["is_genuine"]]),
    ):
        print(f"{name:<20} {text}")


_GENUINE = {
    True: "yes, every image and label",
    False: "NO: these are not CIFAR-10's images and labels",
    None: "not known: the official files are checked by their MD5s, an npz is not",
}


def _span(sizes: dict[str, int]) -> str:
    low, high = min(sizes.values()), max(sizes.values())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@contextmanager
def _progress(official: Official) -> Iterator[Callable[[FetchProgress], None]]:
    """Show a download on standard error: a live bar on a terminal, a line every tenth off it."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(official.label)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(official.label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(official.label, total=None)

        def show(progress: FetchProgress) -> None:
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)
            if progress.note:
                bar.console.print(progress.note, markup=False)

        yield show


def _plain_lines(label: str) -> Callable[[FetchProgress], None]:
    shown_tenths = -1

    def show(progress: FetchProgress) -> None:
        nonlocal shown_tenths
        tenths = 10 * progress.done_bytes // progress.total_bytes
        if tenths > shown_tenths or progress.note:
            shown_tenths = max(tenths, shown_tenths)
            line = f"{label}: {progress.done_bytes / 1e6:.1f} of {progress.total_bytes / 1e6:.1f} MB"
            print(f"{line}; {progress.note}" if progress.note else line, file=sys.stderr, flush=True)

    return show
