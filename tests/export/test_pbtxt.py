"""Protobuf's text format: what is written is read back, and what is broken is refused."""

from __future__ import annotations

import pytest

from poster_edge.export.pbtxt import Word, dumps, loads

MESSAGE = {
    "name": 'a "quoted" name\\ with ünïcode\n',
    "kind": Word("KIND_CPU"),
    "count": -3,
    "on": True,
    "dims": [3, -1, 48],
    "nothing": [],
    "inner": {"deep": {"x": 1}},
    "step": [{"n": 1}, {"n": 2}],
}


def test_round_trip() -> None:
    read = loads(dumps(MESSAGE))
    assert read["name"] == [MESSAGE["name"]]
    assert read["kind"] == ["KIND_CPU"]
    assert isinstance(read["kind"][0], Word)
    assert read["count"] == [-3]
    assert read["on"] == [True]
    assert read["dims"] == [3, -1, 48]
    assert "nothing" not in read
    assert read["inner"] == [{"deep": [{"x": [1]}]}]
    assert read["step"] == [{"n": [1]}, {"n": [2]}]


def test_reads_what_people_write() -> None:
    text = """
    # a comment with { braces
    name: "n"  # and another
    input [ { dims: [ 3, 4 ] }, { dims: 5 dims: 6 } ]
    optimization: { graph: { level: 1 } }; x: 1.5,
    """
    read = loads(text)
    assert read["name"] == ["n"]
    assert read["input"] == [{"dims": [3, 4]}, {"dims": [5, 6]}]
    assert read["optimization"] == [{"graph": [{"level": [1]}]}]
    assert read["x"] == [1.5]


@pytest.mark.parametrize(
    "text", ["a: ", "a {", "a: {]", "a 1", ": 1", "a: [1 2]", 'a: "open', "a: 1 }", "a: $", "a: [1, 2"]
)
def test_what_is_broken_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line|expected|colon"):
        loads(text)


def test_a_float_has_no_place() -> None:
    with pytest.raises(TypeError, match="protobuf"):
        dumps({"x": 1.5})
