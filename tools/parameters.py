"""The parameters of notebooks: their names and defaults, and overrides of the right type."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from utils.training.augmentation import make_policy
from utils.training.recipes import SETTINGS, TrainConfig, make_config, unknown

#: A word without quotes in a list or dictionary: a shell may have taken them.
BARE_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*")


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


def _has(path: Path, name: str) -> bool:
    """Whether a notebook has that parameter; whatever else lies beside ours has none."""
    try:
        return name in notebook_parameters(path)
    except ValueError:
        return False


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
    """Read "03_train.EPOCHS=2 03_train.CHANGES.ema=0.99"; quotes work as in a shell."""
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
    """Merge layers of overrides, the last one wins, and give each value its parameter's type.

    A dictionary is merged key by key; NAME.key sets one of its keys.

    Raises:
        ValueError: an unknown name or key, a value of the wrong type, or one that the recipe or the
            policy of the notebook refuses.
    """
    if not path.is_file():
        raise FileNotFoundError(f"notebook {path} is missing")
    defaults = notebook_parameters(path)
    values: dict[str, Any] = {}
    for given, value in (item for layer in layers for item in layer.items()):
        name, dot, key = given.partition(".")
        if name not in defaults or (dot and not isinstance(defaults[name], dict)):
            others = sorted(p.stem for p in path.parent.glob("*.ipynb") if _has(p, name))
            if others and name not in defaults:
                named = " and ".join(others)
                raise ValueError(f"{path.stem} has no {name}, which is a parameter of {named}")
            raise ValueError(unknown(f"parameter of {path.stem}", given, defaults))
        try:
            typed = _typed({key: _literal(value)} if dot else value, defaults[name])
        except ValueError as error:
            kind, reason = type(defaults[name]).__name__, f": {error}" * bool(str(error))
            raise ValueError(
                f"{path.stem}.{name} must be of type {kind} (default {defaults[name]!r}), "
                f"not {value!r}{reason}"
            ) from None
        if isinstance(typed, dict):
            typed = {**defaults[name], **values.get(name, {}), **typed}
        values[name] = typed
    chosen = defaults | values
    try:
        if "RECIPE" in chosen:
            config_of(chosen)
        if "POLICY" in chosen:
            make_policy(chosen["POLICY"], chosen["CHANGES"])
    except ValueError as error:
        raise ValueError(f"{path.stem}: {error}") from None
    return values


def config_of(parameters: Mapping[str, Any]) -> TrainConfig:
    """What 03 trains with, by its parameters. Raises ValueError as `make_config` does."""
    settings = {name: parameters[name.upper()] for name in SETTINGS}
    return make_config(parameters["RECIPE"], parameters["CHANGES"], **settings)


def _typed(value: Any, default: Any) -> Any:
    """Give a value, or the text of one, the type of a default; ValueError if it has another."""
    kind = type(default)
    if kind in (list, tuple):
        if isinstance(value, str):
            value = _items(value) if value[:1] in ("[", "(") else [value]
        if not isinstance(value, list | tuple):
            raise ValueError
        items = [_typed(item, default[0]) if default else item for item in value]
        return [_plain(item) for item in items]
    if kind is dict:
        value = _literal(value)
        if isinstance(value, str):
            value = _literal(BARE_WORD.sub(lambda word: repr(_literal(word[0])), value))
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError
        for item in value.values():
            for inner in item if isinstance(item, list) else [item]:
                _plain(inner)
        return value
    if kind is not str:
        value = _literal(value)
    if kind is float and type(value) is int:
        value = float(value)
    if default is not None and (type(value) is not kind or value == "None"):
        raise ValueError
    return value if value is None else _plain(value)


def _literal(value: Any) -> Any:
    """What a text spells; itself where it spells nothing or is none."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.title() if value.lower() in ("true", "false") else value)
    except (ValueError, SyntaxError, TypeError):
        return value


def _items(text: str) -> Any:
    """Read a list; a shell may have taken the quotes around its strings."""
    value = _literal(text)
    if isinstance(value, str):
        return [item.strip() for item in text.strip("[()]").split(",")]
    return value


def _plain(value: Any) -> Any:
    """Refuse what papermill would write into the notebook as code."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no text, number, True or False")
    return value
