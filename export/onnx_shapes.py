"""Frees the shapes that an ONNX file declares, so that a fully convolutional network takes pictures of any size.

What runs has no ``onnx`` package: this walks the protobuf messages (``onnx.proto``) itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poster_edge.export.onnx_bytes import fields

_GRAPH = 7
_INPUT, _OUTPUT, _INNER_VALUE = 11, 12, 13
_NAME, _TYPE = 1, 2
_TENSOR_TYPE, _ELEMENT, _SHAPE = 1, 1, 2
_DIM, _DIM_VALUE, _DIM_NAME = 1, 1, 2
_FLOAT = 1


def with_free_shapes(data: bytes, dims: Sequence[int | str]) -> bytes:
    """A model whose one input has these sizes, and whose other values have whatever follows from them.

    Args:
        data: an ONNX file's bytes; all its inputs and outputs are float32.
        dims: sizes of the input, names for those that are free.

    Raises:
        ValueError: no ONNX model.
    """
    return b"".join(
        _message(_GRAPH, _freed(data[start:end], dims)) if number == _GRAPH else data[begin:end]
        for number, begin, start, end in fields(data)
    )


def _freed(graph: bytes, dims: Sequence[int | str]) -> bytes:
    out = []
    for number, begin, start, end in fields(graph):
        if number == _INPUT:
            out.append(_value(_INPUT, _child(graph[start:end], _NAME), _shape(dims)))
        elif number == _OUTPUT:
            out.append(_value(_OUTPUT, _child(graph[start:end], _NAME), _unknown(graph[start:end])))
        elif number != _INNER_VALUE:
            out.append(graph[begin:end])
    return b"".join(out)


def _child(message: bytes, *numbers: int) -> bytes:
    """The content of a message's first field of a number, and so on into it; empty where there is none."""
    for wanted in numbers:
        found: Iterator[bytes] = (message[start:end] for number, _, start, end in fields(message) if number == wanted)
        message = next(found, b"")
    return message


def _unknown(value: bytes) -> bytes:
    """A shape with as many sizes as a value's, none of them said."""
    count = sum(number == _DIM for number, *_ in fields(_child(value, _TYPE, _TENSOR_TYPE, _SHAPE)))
    return _message(_SHAPE, _message(_DIM, b"") * count)


def _value(number: int, name: bytes, shape: bytes) -> bytes:
    """A graph's input or output, float32."""
    tensor = _varint(_ELEMENT << 3) + _varint(_FLOAT) + shape
    return _message(number, _message(_NAME, name) + _message(_TYPE, _message(_TENSOR_TYPE, tensor)))


def _shape(dims: Sequence[int | str]) -> bytes:
    parts = [
        _message(_DIM_NAME, dim.encode()) if isinstance(dim, str) else _varint(_DIM_VALUE << 3) + _varint(dim)
        for dim in dims
    ]
    return _message(_SHAPE, b"".join(_message(_DIM, part) for part in parts))


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
