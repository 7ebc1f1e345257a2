"""The parameters of notebooks: their names and defaults, and overrides of the right type."""

from __future__ import annotations

import ast
import difflib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat


def notebook_parameters(path: str | Path) -> dict[str, Any]:
    """Read the names and defaults in a notebook's cell tagged `parameters`.

    Raises:
        ValueError: not exactly one such cell, or a line in it is not `NAME = literal`.
    """
    path = Path(path)
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path.name}: {len(tagged)} cells are tagged `parameters`, one is needed")
    try:
        lines = ast.parse(tagged[0].source).body
        return dict(_assignment(line) for line in lines)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name}: parameters are NAME = literal, not {error}") from None


def _assignment(line: ast.stmt) -> tuple[str, Any]:
    """Split `NAME = literal`."""
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
            try:
                return name, ast.literal_eval(value)
            except ValueError:
                pass
    raise ValueError(f"`{ast.unparse(line)}`")


def parse_overrides(text: str) -> dict[str, dict[str, str]]:
    """Read "03_train.EPOCHS=2 03_train.IMAGE_SIZE=96"; quotes work as in a shell."""
    try:
        items = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"--set {text}: {str(error).lower()}") from None
    overrides: dict[str, dict[str, str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        notebook, dot, parameter = key.partition(".")
        if not (equals and dot):
            raise ValueError(f"--set {item!r}: write NOTEBOOK.PARAMETER=VALUE")
        overrides.setdefault(notebook, {})[parameter] = value
    return overrides


def checked_parameters(path: Path, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of overrides, the last one wins, and give each value its parameter's type."""
    if not path.is_file():
        raise FileNotFoundError(f"notebook {path} is missing")
    defaults = notebook_parameters(path)
    values: dict[str, Any] = {}
    for name, value in (item for layer in layers for item in layer.items()):
        if name not in defaults:
            raise ValueError(unknown(f"parameter of {path.stem}", name, defaults))
        try:
            values[name] = _typed(value, defaults[name])
        except ValueError:
            kind = type(defaults[name]).__name__
            raise ValueError(
                f"{path.stem}.{name} must be of type {kind} (default {defaults[name]!r}), "
                f"not {value!r}"
            ) from None
    return values


def _typed(value: Any, default: Any) -> Any:
    """Give a value, or the text of one, the type of a default; ValueError if it has another."""
    kind = type(default)
    if kind in (list, tuple):
        if isinstance(value, str):
            value = _items(value) if value[:1] in ("[", "(") else [value]
        if not isinstance(value, list | tuple):
            raise ValueError(value)
        return [_typed(item, default[0]) if default else item for item in value]
    if isinstance(value, str) and kind is not str:
        text = value.title() if kind is bool else value
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    if kind is float and type(value) is int:
        value = float(value)
    if default is not None and (type(value) is not kind or value == "None"):
        raise ValueError(value)
    return value


def _items(text: str) -> Any:
    """Read a list; a shell may have taken the quotes around its strings."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [item.strip() for item in text.strip("[()]").split(",")]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that nothing of that kind is called `name`, and what comes nearest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]}?" if near else "."
    return f"no {kind} is called {name!r}{hint} Known: {', '.join(known)}"
