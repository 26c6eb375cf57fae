"""Norms and networks that a script or notebook gives as Python objects: from a class or function to a file's text.

Training runs in other processes, and a run is to be done again, so an object travels and is recorded as source text:
the whole file where it comes from a module; of a script or a notebook the statements alone that it is made of, because
executing the rest would run the comparison again.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from normbench.config.schema import Code
from normbench.errors import ConfigError
from normbench.own_code import Source

_LISTS = ("norms",)
_SINGLE = ("norm", "model")


def with_own_objects(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with every class or function in place of a name replaced by the name and source text of its code.

    Raises:
        ConfigError: the source of an object cannot be found, or the object has no name in it.
    """
    named = dict(config)
    for key in _LISTS:
        if isinstance(named.get(key), Sequence) and not isinstance(named[key], str):
            named[key] = [_named(entry) for entry in named[key]]
    for key in _SINGLE:
        if key in named:
            named[key] = _named(named[key])
    return named


def _named(entry: Any) -> Any:
    if isinstance(entry, Mapping) and _is_object(entry.get("name")):
        return {**entry, **_name_and_code(entry["name"])}
    return _name_and_code(entry) if _is_object(entry) else entry


def _is_object(value: object) -> bool:
    """Return whether a value is code, and no name or other value of a config; what is neither is refused later."""
    return callable(value)


def _name_and_code(value: Any) -> dict[str, Any]:
    module, name = _home(value)
    if module.__name__ == "__main__" or not getattr(module, "__file__", None):
        source = Source(f"{name}.py", _statements_of(name, module))
        return {"name": f"{source.file}:{name}", "code": Code.of(source)}
    if "." in module.__name__ or _is_installed(module):
        return {"name": f"{module.__name__}:{name}"}
    path = Path(str(inspect.getsourcefile(module) or module.__file__))
    source = Source(path.name, path.read_text(encoding="utf-8"))
    return {"name": f"{source.file}:{name}", "code": Code.of(source)}


def _home(value: Any) -> tuple[ModuleType, str]:
    """Return the module in which a class or function has a name, and the name."""
    function = getattr(value, "func", value)  # of a functools.partial
    shown = getattr(function, "__qualname__", repr(value))
    main = sys.modules["__main__"]
    for module in (sys.modules.get(getattr(function, "__module__", "")), main):
        names = [name for name, other in vars(module).items() if other is value] if module else []
        if names:
            own = getattr(value, "__name__", None)
            return module, own if own in names else names[0]  # type: ignore[return-value]
    raise ConfigError(
        f"{shown}: has no name at the top of a file, script or notebook, so it can neither be sent to the training "
        "process nor recorded: write `def my_norm(num_channels): ...` or a class there, and give that"
    )


def _is_installed(module: ModuleType) -> bool:
    return "site-packages" in Path(str(module.__file__)).parts or module.__name__ in sys.stdlib_module_names


def _statements_of(name: str, module: ModuleType) -> str:
    """Return the statements of a script or notebook that `name` is made of, in their order.

    Of each name that they use the last statement that makes it counts: import, function, class or assignment.

    Raises:
        ConfigError: there is no source, or none of it makes `name`.
    """
    makers: dict[str, tuple[int, str, ast.stmt]] = {}
    for text in _texts(module):
        try:
            body = ast.parse(text).body
        except SyntaxError:
            continue  # a cell with commands of the notebook's own
        for statement in body:
            for made in _names_made(statement):
                makers[made] = (len(makers), text, statement)
    if name not in makers:
        raise ConfigError(
            f"{name}: its source cannot be found, so it can neither be sent to the training process nor recorded: put "
            f"it into a file, and give './{name.lower()}.py:{name}'"
        )
    needed: dict[int, str] = {}
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in makers:
            continue
        seen.add(current)
        position, text, statement = makers[current]
        needed[_first_position(makers, statement, position)] = _text_of(text, statement)
        used = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        waiting += used
    future = "from __future__ import annotations\n" if "annotations" in makers else ""
    return future + "\n\n".join(needed[position] for position in sorted(needed)) + "\n"


def _first_position(makers: Mapping[str, tuple[int, str, ast.stmt]], statement: ast.stmt, position: int) -> int:
    """Return one position for a statement that makes several names."""
    return min((other[0] for other in makers.values() if other[2] is statement), default=position)


def _texts(module: ModuleType) -> Iterator[str]:
    """Yield the source of a script, or the cells of a notebook in the order in which they ran."""
    cells = vars(module).get("In")
    if isinstance(cells, list):
        yield from (cell for cell in cells if isinstance(cell, str))
    elif getattr(module, "__file__", None):
        path = Path(str(module.__file__))
        if path.is_file():
            yield path.read_text(encoding="utf-8")


def _names_made(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _text_of(text: str, statement: ast.stmt) -> str:
    """Return a statement as it is written, with its decorators."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(text.splitlines()[first - 1 : statement.end_lineno])
