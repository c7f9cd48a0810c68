"""Recipes as TOML files: the packaged ones by name, anyone's own by path; checked key by key.

A file has ``model`` (a configuration's name), ``about`` (one line) and a table ``[train]`` whose keys are the
fields of :class:`poster_edge.train.recipe.Recipe`; what it leaves out has that class's default.  No torch here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from poster_edge.errors import InputError, UsageError
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.cf_dan_config import CfDanConfig
from poster_edge.models.config import CONFIGS
from poster_edge.models.fer_vt_config import FerVtConfig
from poster_edge.models.poster_config import PosterConfig
from poster_edge.optional import require
from poster_edge.train.recipe import AUGMENTATIONS, Augmentation, Recipe

_SUFFIX = ".toml"
_TOP = ("about", "model", "train")
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}

#: What ``train`` takes where no recipe is named, by the type of the network's configuration.
_DEFAULTS: dict[type[ModelConfig], str] = {PosterConfig: "poster-nano", FerVtConfig: "fer-vt", CfDanConfig: "cf-dan"}
#: Networks without a published trunk to start from take another one than their family.
_OWN_DEFAULTS = dict.fromkeys(("fer-vt-nano", "cf-dan-nano", "cf-dan-48-trunk"), "scratch")


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe as a file gives it.

    Attributes:
        name: of the file, without its ending.
        about: one line for the reader.
        model: configuration it is meant for.
        recipe: the training itself.
    """

    name: str
    about: str
    model: str
    recipe: Recipe


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(f.name.removesuffix(_SUFFIX) for f in _folder().iterdir() if f.name.endswith(_SUFFIX))


def default_recipe(config: ModelConfig) -> NamedRecipe:
    """The packaged recipe of a network, or of its family where it has none of its own."""
    return load_recipe(_OWN_DEFAULTS.get(config.variant) or _DEFAULTS[type(config)])


def load_recipe(name: str) -> NamedRecipe:
    """A packaged recipe by its name, or a file of one's own by its path, which ends in ``.toml``.

    Raises:
        UsageError: no recipe of that name; lists those there are.
        InputError: the file is missing, is no TOML, or a key of it is unknown or out of range; says which.
    """
    if name.endswith(_SUFFIX):
        return parse_recipe(_read(Path(name)), name)
    if name not in recipe_names():
        raise UsageError(f"no recipe '{name}'; packaged: {', '.join(recipe_names())}; a file's name ends in {_SUFFIX}")
    return parse_recipe((_folder() / f"{name}{_SUFFIX}").read_bytes(), f"{name}{_SUFFIX}")


def _folder() -> Any:
    return resources.files("poster_edge.train") / "recipes"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror or error}") from error


def parse_recipe(data: bytes, source: str) -> NamedRecipe:
    """A recipe from the bytes of a TOML file; ``source`` is what messages call it.

    Raises:
        InputError: see :func:`load_recipe`.
    """
    table = _toml(data, source)
    if unknown := [k for k in table if k not in _TOP]:
        raise InputError(f"{source}: unknown key {unknown[0]}, expected {', '.join(_TOP)}")
    for key in ("about", "model"):
        if not isinstance(table.get(key), str):
            raise InputError(f"{source}: {key} is {_shown(table.get(key))}, expected a text")
    if table["model"] not in CONFIGS:
        raise InputError(f"{source}: model is {table['model']!r}, expected one of {', '.join(CONFIGS)}")
    if not isinstance(table.get("train"), dict):
        raise InputError(f"{source}: expected a table [train] of the training's options")
    recipe = _settings(Recipe, table["train"], source, "train")
    return NamedRecipe(Path(source).name.removesuffix(_SUFFIX), table["about"], table["model"], recipe)


def _toml(data: bytes, source: str) -> dict[str, Any]:
    # Part of Python since 3.11; before that the extra "train" brings it under its old name.
    try:
        import tomllib
    except ModuleNotFoundError:
        tomllib = require("tomli", purpose="read a recipe")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not readable as TOML ({error})") from error


def _settings(kind: type, table: Any, source: str, where: str) -> Any:
    """A frozen dataclass from a table; every key is known and every value of the field's type."""
    if not isinstance(table, dict):
        raise InputError(f"{source}: {where} is {_shown(table)}, expected a table")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{source}: unknown key {where}.{key}, expected one of {', '.join(known)}")
        values[key] = _value(hints[key], value, source, f"{where}.{key}")
    try:
        return kind(**values)
    except UsageError as error:
        # Its message begins with the field's name.
        raise InputError(f"{source}: {where}.{error}") from error


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    """One value of a table as the type of its field."""
    for fits, read in _READERS:
        if fits(hint):
            return read(hint, value, source, where)
    raise AssertionError(f"no reader for {hint}")


def _plain(hint: type, value: Any, source: str, where: str) -> Any:
    # Python's booleans are whole numbers; a recipe's are not.
    if isinstance(value, bool) == (hint is bool):
        if isinstance(value, hint):
            return value
        if hint is float and isinstance(value, int):
            return float(value)
    raise InputError(f"{source}: {where} is {_shown(value)}, expected {_WORDS[hint]}")


def _optional(hint: Any, value: Any, source: str, where: str) -> Any:
    return _value(next(a for a in typing.get_args(hint) if a is not type(None)), value, source, where)


def _many(hint: Any, value: Any, source: str, where: str) -> tuple[Any, ...]:
    kinds = typing.get_args(hint)
    endless = kinds[-1] is Ellipsis
    if not isinstance(value, list) or (not endless and len(value) != len(kinds)):
        wanted = "tables" if endless else f"{len(kinds)} values"
        raise InputError(f"{source}: {where} is {_shown(value)}, expected a list of {wanted}")
    each = [kinds[0]] * len(value) if endless else list(kinds)
    return tuple(_value(k, v, source, f"{where}[{i}]") for i, (k, v) in enumerate(zip(each, value, strict=True)))


def _augmentation(hint: type, value: Any, source: str, where: str) -> Augmentation:
    if isinstance(value, str):
        if value not in AUGMENTATIONS:
            raise InputError(f"{source}: {where} is {value!r}, expected a table or {' or '.join(AUGMENTATIONS)}")
        return AUGMENTATIONS[value]
    settings: Augmentation = _settings(hint, value, source, where)
    return settings


#: Which types of a field are read how; the first that fits.
_READERS: tuple[tuple[Callable[[Any], bool], Callable[..., Any]], ...] = (
    (lambda hint: hint in _WORDS, _plain),
    (lambda hint: hint is Augmentation, _augmentation),
    (is_dataclass, _settings),
    (lambda hint: isinstance(hint, types.UnionType), _optional),
    (lambda hint: typing.get_origin(hint) is tuple, _many),
)


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r}"[:60]
