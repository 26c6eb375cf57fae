"""Write the API reference as HTML, from the docstrings: ``python docs/api_reference.py build/api``; no network."""

import sys
from pathlib import Path

import pdoc

import normbench

MODULES = ("normbench", "!normbench.cli", "!normbench.kernels", "!normbench.triton_code", "!normbench.worker")


def main(folder: Path) -> None:
    """Write a page for each module, the names of ``import normbench`` on the first."""
    for name in normbench.__all__:  # pdoc shows what a module holds, and these are loaded when they are first used
        setattr(normbench, name, getattr(normbench, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
