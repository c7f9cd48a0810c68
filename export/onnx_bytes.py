"""A look at an ONNX file's bytes before a parser gets them: does it ask for data from elsewhere, what does it say?

OpenVINO follows a tensor's "external data" to any path of the machine even when it is given a model in
memory, and to any address of the process when the path is onnxruntime's marker for one.  What runs has no
``onnx`` package, so this walks the protobuf messages (``onnx.proto``) itself; contents are skipped, not read.
"""

from __future__ import annotations

from collections.abc import Iterator

#: Message -> field number -> message: every way from a model to its tensors.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_GRAPH = ("model", 7)
_NODE_OUTPUT = ("node", 2)
#: onnxruntime's node that is, or names the file of, an engine compiled elsewhere: a program.
_OP_TYPE, _ENGINE = ("node", 4), b"EPContext"
_EXTERNAL_DATA, _DATA_LOCATION = ("tensor", 13), ("tensor", 14)
_METADATA, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_self_contained(data: bytes) -> None:
    """Refuse a model that is no ONNX graph, whose tensors lie outside of it, or that brings a compiled engine.

    Raises:
        ValueError: says which.
    """
    has_graph = False
    todo = [("model", 0, len(data))]
    while todo:
        message, position, end = todo.pop()
        idle = message == "node"
        while position < end:
            key, position = _varint(data, position, end)
            if key >> 32:
                # C++ parsers cut a key to 32 bits and would see another field than we do.
                raise ValueError("no ONNX graph")
            number, wire = key >> 3, key & 7
            value, start, position = _field(data, position, end, wire)
            field = (message, number)
            idle &= field != _NODE_OUTPUT
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and (wire != _VARINT or value)):
                raise ValueError("it asks for data outside the file")
            if field == _OP_TYPE and data[start:position] == _ENGINE:
                raise ValueError("it holds a compiled engine, which is a program: only what is built here is executed")
            has_graph |= field == _GRAPH and wire == _BYTES
            if wire == _BYTES and number in _CHILDREN[message]:
                todo.append((_CHILDREN[message][number], start, position))
        if idle:
            raise ValueError("a node in it has no output")
    if not has_graph:
        raise ValueError("no ONNX graph")


def metadata(data: bytes) -> dict[str, str]:
    """The entries that a model's maker left in it.

    Raises:
        ValueError: no ONNX model.
    """
    found = {}
    for number, start, end in _texts(data, 0, len(data)):
        if number == _METADATA:
            entry = {n: data[a:b].decode(errors="replace") for n, a, b in _texts(data, start, end)}
            found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return found


def fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number of every field of a message, where it begins with its key, where its content begins, and where it ends.

    Raises:
        ValueError: no protobuf message.
    """
    position = 0
    while position < len(data):
        begin = position
        key, position = _varint(data, position, len(data))
        _, start, position = _field(data, position, len(data), key & 7)
        yield key >> 3, begin, start, position


def _texts(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every length-delimited field of a message."""
    while position < end:
        key, position = _varint(data, position, end)
        _, start, position = _field(data, position, end, key & 7)
        if key & 7 == _BYTES:
            yield key >> 3, start, position


def _field(data: bytes, position: int, end: int, wire: int) -> tuple[int, int, int]:
    """Value (of a varint), start and end of a field's content."""
    value, start = 0, position
    if wire == _VARINT:
        value, position = _varint(data, position, end)
    elif wire == _BYTES:
        length, start = _varint(data, position, end)
        position = start + length
    elif wire in (_FIXED64, _FIXED32):
        position += 8 if wire == _FIXED64 else 4
    else:
        raise ValueError("no ONNX graph")
    if position > end:
        raise ValueError("no ONNX graph, or a cut one")
    return value, start, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A variable-length integer and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("no ONNX graph, or a cut one")
