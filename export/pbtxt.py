"""Protobuf's text format, as far as Triton's ``config.pbtxt`` needs it: written and read back without protobuf.

Source: "Text Format Language Specification", protobuf.dev.  What is not read: octal and hexadecimal numbers,
extensions, messages in angle brackets; nothing here writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:\#[^\n]*\n\s*)*(?:(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<word>[A-Za-z_][\w.]*)"""
    r"""|(?P<number>-?\d+(?:\.\d+)?)|(?P<mark>[{}\[\]:,;])|(?P<end>$))"""
)


class Word(str):
    """A value that is written without quotes: the name of an enumerator."""

    __slots__ = ()


#: A message: name of a field -> its value; a sequence stands for a repeated field.
Message = Mapping[str, Any]


def dumps(message: Message) -> str:
    """Text of a message; fields keep their order, two spaces a level.

    Raises:
        TypeError: a value is of a kind that has no place in a message.
    """
    return "\n".join(_fields(message, "")) + "\n"


def _fields(message: Message, indent: str) -> Iterator[str]:
    for name, value in message.items():
        for item in _items(value):
            if isinstance(item, Mapping):
                yield f"{indent}{name} {{"
                yield from _fields(item, indent + "  ")
                yield f"{indent}}}"
            elif isinstance(item, list):
                yield f"{indent}{name}: [{', '.join(_scalar(v) for v in item)}]"
            else:
                yield f"{indent}{name}: {_scalar(item)}"


def _items(value: Any) -> Sequence[Any]:
    """What is written one after the other: each message of a sequence, or a whole sequence of scalars."""
    if not isinstance(value, list | tuple):
        return [value]
    return list(value) if all(isinstance(v, Mapping) for v in value) else [list(value)]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word | int):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes are protobuf's for everything but \u, so other characters stay as they are.
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"{value!r} cannot be a value of a protobuf message")


def loads(text: str) -> dict[str, list[Any]]:
    """Read a message: name of a field -> all its values, in order; messages are read the same way.

    Raises:
        ValueError: the text is no message; says where.
    """
    return _message(_Tokens(text), end="")


class _Tokens:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self._text, self._position = text, 0
        self.kind, self.value = "", ""
        self.step()

    def step(self) -> str:
        """Go on by one token; returns the one that is left behind."""
        left = self.value
        match = _TOKEN.match(self._text, self._position)
        if match is None or match.lastgroup is None:
            raise ValueError(f"line {self._text.count(chr(10), 0, self._position) + 1}: not protobuf's text format")
        self._position = match.end()
        self.kind, self.value = match.lastgroup, match[match.lastgroup]
        return left

    def expect(self, value: str) -> None:
        """Go on if this token is the one that must stand here."""
        if self.kind == "text" or self.value.strip() != value:
            line = self._text.count("\n", 0, self._position) + 1
            raise ValueError(f"line {line}: '{self.value}' where '{value or 'the end'}' was expected")
        self.step()


def _message(tokens: _Tokens, *, end: str) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    while tokens.kind == "word":
        name = tokens.step()
        colon = tokens.value == ":" and tokens.kind == "mark"
        if colon:
            tokens.step()
        if tokens.value == "[" and tokens.kind == "mark":
            tokens.step()
            values = _list(tokens)
        else:
            values = [_value(tokens)]
        if not colon and not all(isinstance(v, dict) for v in values):
            raise ValueError(f"'{name}' has a value without a colon before it")
        fields.setdefault(name, []).extend(values)
        if tokens.kind == "mark" and tokens.value in ",;":
            tokens.step()
    tokens.expect(end)
    return fields


def _list(tokens: _Tokens) -> list[Any]:
    values: list[Any] = []
    while not (tokens.kind == "mark" and tokens.value == "]"):
        if values:
            tokens.expect(",")
        values.append(_value(tokens))
    tokens.step()
    return values


def _value(tokens: _Tokens) -> Any:
    kind, value = tokens.kind, tokens.value
    if kind == "mark" and value == "{":
        tokens.step()
        return _message(tokens, end="}")
    if kind not in ("text", "word", "number"):
        raise ValueError(f"'{value}' where a value was expected")
    tokens.step()
    if kind == "text":
        return json.loads(value)
    if kind == "number":
        return float(value) if "." in value else int(value)
    return {"true": True, "false": False}.get(value, Word(value))
