"""Train small runs on this machine's CPU and print a digest of every loss, to show that a change kept the bits.

    PYTHONPATH=OLD_CHECKOUT python tools/same_bits.py > before.txt
    PYTHONPATH=NEW_CHECKOUT python tools/same_bits.py > after.txt
    diff before.txt after.txt

Six norms in two networks and two norms in style transfer are trained; beside their losses, the ids of all runs that the
built-in configs plan are printed. Both checkouts must run on one machine with the same versions of torch and its
libraries: other processors add numbers in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMPARISON = """
name: bits
norms: [bn, gn, ln, in, frn, evonorm_s0]
seeds: [3]
dataset: {name: synthetic, options: {num_train: 192, num_test: 64}}
device: cpu
train: {epochs: 2, batch_size: 48, augment: crop_flip, precision: fp32}
grid: {model: [norm_resnet, resnet9]}
"""
STYLE = """
name: style-bits
norms: [in, bn]
seeds: [3]
content: synthetic
num_content: 32
image_size: 32
style_size: 32
features: %s
device: cpu
train: {steps: 12, batch_size: 4}
"""
FEATURES = """
name: features
norms: [bn]
model: resnet9
dataset: {name: synthetic, options: {num_train: 192, num_test: 64}}
device: cpu
train: {epochs: 1, precision: fp32}
"""
CONFIGS = ["accuracy", "all", "batch_one", "batch_size", "demo", "lr", "transformer", "transformer_lr", "tutorial"]


def main() -> None:
    """Print one line for each planned run of a built-in config and each run trained here."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in CONFIGS:
            planned = normbench(
                "compare", name, "--device", "cpu", "--precision", "fp32", "--dry-run", "--json", "--runs-dir", scratch
            )
            ids = sorted(run_ids(json.loads(planned)))
            print(f"{name}: {len(ids)} runs planned, ids {digest(' '.join(ids))}")
        planned = normbench("stylize", "compare", "style", "--device", "cpu", "--dry-run", "--runs-dir", scratch)
        ids = sorted({word for word in planned.split() if "-stylenet-" in word})
        print(f"style: {len(ids)} runs planned, ids {digest(' '.join(ids))}")
        train("compare", COMPARISON, folder)
        train("compare", FEATURES, folder, "--keep-checkpoint")
        features = next((folder / "runs" / "features").glob("bn-*"))
        # The run's path is part of a style run's config, so it is given relative to the working folder.
        train("stylize compare", STYLE % features.relative_to(folder), folder)
        for losses in sorted(folder.glob("runs/*/*/*s.csv")):
            print(f"{losses.parent.parent.name}/{losses.parent.name}: losses {digest(losses.read_text())}")
        for metrics in sorted(folder.glob("runs/*/*/metrics.jsonl")):
            rows = [json.loads(line) for line in metrics.read_text().splitlines()]
            kept = [{key: row[key] for key in ("train_accuracy", "test_accuracy", "test_loss")} for row in rows]
            print(f"{metrics.parent.name}: epochs {digest(json.dumps(kept))}")


def train(command: str, config: str, folder: Path, *flags: str) -> None:
    """Run a comparison in `folder`."""
    file = folder / "config.yaml"
    file.write_text(config)
    normbench(*command.split(), str(file), "--runs-dir", "runs", *flags, cwd=folder)


def normbench(*arguments: str, cwd: Path | None = None) -> str:
    """Run a command of the NormBench on `PYTHONPATH` and return what it prints; one thread, so that sums keep order."""
    result = subprocess.run(
        [sys.executable, "-m", "normbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        check=False,
    )
    if result.returncode:
        sys.exit(f"normbench {' '.join(arguments)}: exit {result.returncode}\n{result.stderr}")
    return result.stdout


def run_ids(planned: object) -> Iterator[str]:
    """Yield the run ids anywhere in the JSON of a dry run."""
    if isinstance(planned, dict):
        for key, value in planned.items():
            yield from [value] if key in ("run", "run_id", "id") and isinstance(value, str) else run_ids(value)
    elif isinstance(planned, list):
        for value in planned:
            yield from run_ids(value)


def digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
