"""Every file, module and class that a page, a docstring or a message names is there, and every link leads somewhere.

Names are looked up in the sources, not imported: nothing runs, and it makes no difference whether Triton is installed.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "normbench"
GLOBS = ("*.md", "docs/**/*.md", "docs/**/*.ipynb")
PAGES = sorted(path for glob in GLOBS for path in ROOT.glob(glob) if path.name != "CHANGELOG.md")
SOURCES = sorted(PACKAGE.glob("**/*.py"))
FOLDERS = ("normbench", "docs", "configs", "tests", "tools")
PYTHON_FILES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")]

URL = re.compile(r"\b[a-z]+://\S+")
PATH = re.compile(rf"(?<![\w./<>-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/](?![<{{])")
PYTHON_FILE = re.compile(r"(?<![\w./*-])(?:\w+/)*\w+\.py\b")
DOTTED = re.compile(r"(?<![\w./-])normbench(?:\.\w+)+(?::\w+)?")
TARGET = re.compile(r"\w+(?:\.\w+)*:[A-Za-z_]\w*")
CLASS = re.compile(r"(?<!`)`([A-Z]\w*[a-z]\w*(?:\.\w+)*)(?:\(\))?`(?!`)")

ELSEWHERE = {
    # What docs/norms.md tells its reader to write:
    *("normbench/norms/peak.py", "peak.py", "normbench.norms.peak:PeakNorm"),
    *("mynorm.py", "mynet.py", "net.py", "file.py", "FILE.py"),  # a user's own
    *("bit_pytorch/models.py", "resnet_model.py"),  # other projects' files
    *("Normalize", "ToTensor", "Tensor.backward"),  # names of torch and torchvision
}


def missing_paths(text: str) -> list[str]:
    """Return the files and folders named in `text` that are not there; a Python file may be named by its path's end."""
    text = URL.sub("", text)
    paths, python_files = set(PATH.findall(text)) - ELSEWHERE, set(PYTHON_FILE.findall(text)) - ELSEWHERE
    absent = {name for name in paths if not list(ROOT.glob(name.rstrip("/.")))}
    absent |= {name for name in python_files if not any(f"/{file}".endswith(f"/{name}") for file in PYTHON_FILES)}
    return sorted(absent)


def missing_modules(text: str) -> list[str]:
    """Return the ``normbench.module``, ``normbench.module.name`` and ``normbench.module:name`` that are not there."""
    return sorted({name for name in DOTTED.findall(URL.sub("", text)) if name not in ELSEWHERE and not resolves(name)})


def missing_classes(text: str) -> list[str]:
    """Return the names like `Class` or `Class.method` that the package does not bind and `text` does not quote."""
    known = {name for path in SOURCES for name in names_in(path)} | {*dir(builtins)}
    return sorted({name for name in CLASS.findall(text) if name not in known | ELSEWHERE and f'"{name}"' not in text})


def missing_targets(path: Path) -> list[str]:
    """Return the ``"module:name"`` strings in a package's file, relative to its folder, that are not there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    folder = ".".join(path.relative_to(ROOT).parent.parts)
    targets = {text for text in strings if TARGET.fullmatch(text) and not text.startswith("normbench.")}
    return sorted(text for text in targets if not resolves(f"{folder}.{text}"))


def resolves(name: str) -> bool:
    """Say whether a dotted name is that of a module of the package, or of a name in one."""
    parts = name.replace(":", ".").split(".")
    for count in range(len(parts), 0, -1):
        module, rest = ROOT.joinpath(*parts[:count]), ".".join(parts[count:])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.exists():
                return not rest or rest in names_in(path)
    return False


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names that a file binds, those in its classes as ``Class.name``; and those it lists in `__all__`."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef():
                yield prefix + node.name
                yield from _names(node.body, f"{prefix}{node.name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield prefix + node.name
                yield from (f"{prefix}{name}" for name in _attributes_set(node))
            case ast.Import() | ast.ImportFrom():
                yield from (prefix + (alias.asname or alias.name) for alias in node.names)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound = [target.id for target in targets if isinstance(target, ast.Name)]
                yield from (prefix + name for name in bound)
                if bound == ["__all__"] and node.value is not None:
                    yield from ast.literal_eval(node.value)
            case ast.If() | ast.Try():
                yield from _names([*node.body, *node.orelse], prefix)


def _attributes_set(method: ast.AST) -> Iterator[str]:
    """Yield the attributes that a method gives its object."""
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page whose file or anchor is not there, or whose text is another file's name."""
    prose = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    broken = []
    for label, link in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if "://" in link or link.startswith("mailto:"):
            continue
        other_name = PYTHON_FILE.fullmatch(label) and Path(label).name != file.name
        if not file.exists() or other_name or (anchor and anchor not in anchors(file)):
            broken.append(link)
    return broken


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_paths(text) + missing_modules(text) + missing_classes(text) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_what_a_source_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert missing_paths(text) + missing_modules(text) + missing_classes(text) + missing_targets(path) == []


def test_a_wrong_name_is_found_and_a_right_one_is_not(tmp_path: Path) -> None:
    paths = "normbench/errors.py, normbench/norms/, configs/*.yaml, docs/results/<name>.md, report/page.py, cli/gone.py"
    assert missing_paths(paths) == ["cli/gone.py"]
    absent = ["configs/gone/", "docs/gone.md", "normbench/gone.py"]
    assert missing_paths("normbench/gone.py, docs/gone.md and configs/gone/.") == absent
    modules = "normbench.report.recorded_runs, normbench.report.recorded_runs:load_runs, normbench.load_runs"
    assert missing_modules(modules) == []
    absent = ["normbench.report.gone", "normbench.report.recorded_runs:gone"]
    assert missing_modules("`normbench.report.gone` and normbench.report.recorded_runs:gone.") == absent
    assert missing_classes("`RunRecord`, `ValueError`, ``Gone`` and `RunRecord.gone`") == ["RunRecord.gone"]
    page = tmp_path / "page.md"
    page.write_text("# The `first` one\n\n## [Again](x.md)\n\n# Again\n", encoding="utf-8")
    assert anchors(page) == {"the-first-one", "again", "again-1"}
    links = (
        "[a](#again-1) [b](page.md#again) [c](#gone) [d](gone.md) `[e](gone.md)` [f](https://x.y/gone) [g.py](page.md)"
    )
    assert broken_links(page, links) == ["#gone", "gone.md", "page.md"]


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text("utf-8"))}
    assert [name(page) for page in PAGES if page not in {*linked, index}] == []
