"""Code of a user's own that a comparison names: ``./mynorm.py:MyNorm`` or ``package.module:name``. Needs no torch.

A file is executed from its text, never from its path: the text is read once, its hash enters the run's id, it travels
to training processes with the run's config, and a copy stands in the run's folder. So a file stands alone: it imports
installed packages, and not the files beside it. It is executed only where a user names it to train, load or check it.

What goes wrong in it is a `ConfigError` that names the user's own file and line.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.errors import ConfigError, NormBenchError, suggestion
from normbench.registry import Option, OptionValue, check_option_names

MAX_BYTES = 512 * 2**10
"""The most bytes of a file of a user's own."""

_EXTENSION = ".py"
_SCALARS = (bool, int, float, str)
_MODULE_PREFIX = "_normbench_own_"
_loaded: dict[str, types.ModuleType] = {}
"""Modules made of files, by the hash of their text."""
_paths: set[str] = set()
"""The files that code in this process came from, as messages name them."""


@dataclass(frozen=True)
class Source:
    """The text of a file that holds a user's norm or network."""

    path: str
    """How messages name the file; never recorded."""
    text: str

    @property
    def file(self) -> str:
        """The name of the file, and of its copy in a run's folder."""
        return Path(self.path).name

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text in UTF-8, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Target:
    """What a name such as ``./mynorm.py:MyNorm`` names."""

    module: str
    """A path that ends in ``.py``, or the dotted name of an installed module."""
    attribute: str

    @property
    def is_file(self) -> bool:
        """Whether the module is a file by its path."""
        return self.module.endswith(_EXTENSION)

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def is_own(name: str) -> bool:
    """Return whether `name` is written as one's own code is: ``file.py:name`` or ``package.module:name``."""
    return ":" in name or name.endswith(_EXTENSION)


def parse_target(name: str) -> Target:
    """Read ``./mynorm.py:MyNorm`` or ``package.module:name``.

    Raises:
        ConfigError: it is neither.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        raise ConfigError(f"{name}: say what to take from the file: {name}:MyNorm")
    if not attribute.isidentifier():
        raise ConfigError(f"{name}: {attribute!r} is not the name of a class or function, as in ./mynorm.py:MyNorm")
    if not module.endswith(_EXTENSION) and not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"{name}: {module!r} is neither a .py file nor an installed package.module")
    return Target(module, attribute)


def split_weight(name: str) -> tuple[str, str]:
    """Return ``./mynorm.py:MyNorm`` and the weight method ``ws`` of ``./mynorm.py:MyNorm+ws``; none is empty."""
    module, colon, attribute = name.rpartition(":")
    base, _, weight = attribute.partition("+")
    return f"{module}{colon}{base}", weight


def read_source(path: Path) -> Source:
    """Read a file of a user's own.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: cannot be read: it is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: is longer than {MAX_BYTES // 2**10} KiB")
        return Source(str(path), content.decode())
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{suggestion(path.name, near) if near else ''}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error.reason} at byte {error.start}: it must be UTF-8") from None


def module_source(target: Target) -> Source:
    """Import an installed module and return the text of its file.

    Raises:
        ConfigError: there is no such module, it cannot be imported, or it has no file of Python.
    """
    try:
        found = importlib.util.find_spec(target.module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        top = target.module.partition(".")[0]
        raise ConfigError(f"{target}: no module {target.module!r} is installed; for a file write ./{top}.py:...")
    with blame(str(target), f"{target.module} cannot be imported"):
        importlib.import_module(target.module)
    if not found.origin or not found.origin.endswith(_EXTENSION):
        raise ConfigError(f"{target}: {target.module} is no Python file, so what it computes cannot be recorded")
    _paths.add(found.origin)
    return read_source(Path(found.origin))


def load_attribute(target: Target, source: Source) -> Any:
    """Return the class or function that `target` names; a file is executed from `source`, once a process.

    Raises:
        ConfigError: the code cannot be executed, has no such name, or is not what `source` says.
    """
    if target.is_file:
        module = _loaded.get(source.sha256) or _execute(source)
    else:
        if module_source(target).sha256 != source.sha256:
            raise ConfigError(f"{target}: {source.file} has changed since the run was planned")
        module = importlib.import_module(target.module)
    if not hasattr(module, target.attribute):
        there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        own = [name for name in there if getattr(vars(module)[name], "__module__", None) == module.__name__]
        raise ConfigError(f"{source.path}: has no {target.attribute!r}{suggestion(target.attribute, own or there)}")
    return getattr(module, target.attribute)


def _execute(source: Source) -> types.ModuleType:
    """Make a module of a file's text. What the file prints goes to stderr, because stdout is for results."""
    name = f"{_MODULE_PREFIX}{re.sub(r'[^a-zA-Z0-9_]', '_', Path(source.path).stem)}_{source.sha256[:12]}"
    module = types.ModuleType(name)
    module.__file__ = source.path
    _paths.add(source.path)
    lines = source.text.splitlines(keepends=True)
    linecache.cache[source.path] = (len(source.text), None, lines, source.path)  # for tracebacks, Triton and inspect
    sys.modules[name] = module
    try:
        with blame(source.path, "cannot be executed"):
            exec(compile(source.text, source.path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[source.sha256] = module
    return module


@contextlib.contextmanager
def blame(where: str, what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into a `ConfigError` that names its file and line, or else `where`."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except NormBenchError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{place_of(error) or where}: {what}: it calls exit, which would end the program") from None
    except ModuleNotFoundError as error:
        hint = "install it" if "." in str(error.name) else "install it, or put what you need of it into this file"
        raise ConfigError(f"{place_of(error) or where}: {what}: {error}; {hint}") from error
    except Exception as error:
        raise ConfigError(f"{place_of(error) or where}: {what}: {describe(error)}") from error


def place_of(error: BaseException) -> str | None:
    """Return ``mynorm.py:12``, the last line of a user's own file that an error went through; None if it is in none."""
    if isinstance(error, SyntaxError) and error.filename in _paths:
        return f"{error.filename}:{error.lineno}"
    place, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename in _paths:
            place = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return place


def describe(error: BaseException) -> str:
    """Return kind and first line of an error that is no user's problem: ``ValueError: ...``."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0] if message else ''}"


def line_of(function: Any, source: Source) -> str:
    """Return ``mynorm.py:12``, where a class or function begins; the file alone where that is not known."""
    code = getattr(getattr(function, "__init__", None) if inspect.isclass(function) else function, "__code__", None)
    if code is not None and code.co_filename in _paths:
        return f"{code.co_filename}:{code.co_firstlineno}"
    return source.path


@dataclass(frozen=True)
class Signature:
    """How a class or function of a user's own is called: with what NormBench gives it, and with options."""

    first: str | None
    """The parameter that is given first, by keyword; None where it has no name to be given by."""
    given: frozenset[str]
    """Further parameters that NormBench gives, by keyword."""
    options: Mapping[str, Option]
    required: tuple[str, ...]
    """Options without a default."""


def read_signature(
    function: Any, source: Source, *, first: tuple[str, ...], may_give: Collection[str] = ()
) -> Signature:
    """Return how to call `function`: a parameter named as one of `first`, or else the first one, is what it is about.

    Parameters in `may_give` are given too; all others are options, with the types and defaults of the signature.

    Raises:
        ConfigError: it is neither a class nor a function, takes nothing, has a parameter that no option can be, or a
            default that can change.
    """
    where = line_of(function, source)
    name = getattr(function, "__name__", None) or type(function).__name__
    if not callable(function):
        raise ConfigError(f"{where}: {name} is neither a class nor a function")
    try:
        parameters = dict(inspect.signature(function).parameters)
        with contextlib.suppress(Exception):
            parameters = dict(inspect.signature(function, eval_str=True).parameters)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {name} has no signature that can be read") from None
    named = [key for key, parameter in parameters.items() if parameter.kind in (_EITHER, _KEYWORD)]
    about = next((key for key in first if key in named), None)
    if about is None:
        positional = [key for key, parameter in parameters.items() if parameter.kind in (_POSITIONAL, _EITHER, _REST)]
        if not positional:
            raise ConfigError(f"{where}: {name} must take {first[0]}: def __init__(self, {first[0]}) for a class")
        about = positional[0]
    options, required = {}, []
    for key, parameter in parameters.items():
        if key == about or key in may_give or parameter.kind in (_REST, _KEYWORDS):
            continue
        options[key] = _option(f"{where}: {name}", key, parameter)
        if parameter.default is parameter.empty:
            required.append(key)
    given = frozenset(key for key in may_give if key in named)
    return Signature(about if about in named else None, given, options, tuple(required))


_POSITIONAL, _EITHER = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
_REST, _KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY
_KEYWORDS = inspect.Parameter.VAR_KEYWORD


def _option(where: str, name: str, parameter: inspect.Parameter) -> Option:
    """Return the option that a parameter is; its type comes from its annotation, or else from its default."""
    default = None if parameter.default is parameter.empty else parameter.default
    if default is not None and not isinstance(default, _SCALARS):
        changes = ", which all layers would share" if isinstance(default, list | dict | set) else ""
        raise ConfigError(
            f"{where}: the default of {name!r} is {default!r}{changes}; an option is a number, a text, true, false or "
            "null: take None and make the value in the function"
        )
    if parameter.kind is _POSITIONAL:
        raise ConfigError(f"{where}: {name!r} can only be given by its position; remove the / behind it")
    types_, choices = _allowed_types(parameter.annotation)
    if types_ is None:  # annotated with what no config can say
        if parameter.default is parameter.empty:
            raise ConfigError(
                f"{where}: needs {name!r}, which is {_shown(parameter.annotation)} and cannot be given: options are "
                "numbers, texts, true, false and null; give it a default"
            )
        types_ = ()
    kind: Any = types_[0] if len(types_) == 1 else type(default) if default is not None and not types_ else object
    if types_ and {int, float} == set(types_):
        kind = float
    return Option(type=kind, default=default, help="", choices=choices)


def _allowed_types(annotation: Any) -> tuple[tuple[type, ...] | None, tuple[str, ...]]:
    """Return the scalar types that an annotation allows, and its choices; no types where it says nothing of them.

    None in place of types: nothing that an option can be.
    """
    if annotation is inspect.Parameter.empty or isinstance(annotation, str) or annotation in (Any, object):
        return (), ()
    if typing.get_origin(annotation) is typing.Literal:
        choices = typing.get_args(annotation)
        return ((str,), choices) if all(isinstance(choice, str) for choice in choices) else ((), ())
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    found = tuple(member for member in members if member in _SCALARS)
    others = [member for member in members if member not in (*_SCALARS, type(None))]
    return (found, ()) if found or not others else (None, ())


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def make_caller(function: Any, name: str, source: Source, signature: Signature) -> Callable[..., Any]:
    """Return what calls `function` with its subject, with what it is given beside that, and with options.

    Raises what the call raises as a `ConfigError` that names the user's file and line.
    """

    def call(subject: Any, **options: Any) -> Any:
        check_options(name, signature, {key: value for key, value in options.items() if key not in signature.given})
        with blame(source.path, f"{name}({_call_text(subject, options)}) fails"):
            if signature.first is None:
                return function(subject, **options)
            return function(**{signature.first: subject}, **options)

    return call


def check_options(name: str, signature: Signature, options: Mapping[str, OptionValue]) -> None:
    """Raise `ConfigError` unless `options` are allowed options of what has `signature`, and all that it needs."""
    check_option_names(f"{name!r}", options, signature.options)
    for key, value in options.items():
        signature.options[key].check(f"{name}: {key}", value)
    for key in signature.required:
        if key not in options:
            raise missing_option(name, key)


def missing_option(name: str, option: str) -> ConfigError:
    """Return the error of an option that has no default and was not given."""
    return ConfigError(f"{name} needs {option!r}: give it as options: {{{option}: ...}}, or give it a default")


def _call_text(subject: Any, arguments: Mapping[str, Any]) -> str:
    first = [repr(subject)] if isinstance(subject, _SCALARS) else []
    return ", ".join([*first, *(f"{key}={value!r}" for key, value in arguments.items() if isinstance(value, _SCALARS))])
