"""What a checkpoint says about itself is checked before a bundle is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poster_edge.config import Preprocess
from poster_edge.errors import InputError
from poster_edge.models.checkpoint import ModelInfo, read_checkpoint
from poster_edge.models.official import read_official

INFO = ModelInfo("poster-nano", ("angry", "happy"), Preprocess(size=48), "custom", 1.3, {"epochs": 3}, "here")


def test_round_trip() -> None:
    assert ModelInfo.from_metadata(INFO.to_metadata(), Path("x")) == INFO


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("temperature", "nan", "temperature nan, expected 0.01 to 100"),
        ("temperature", "0", "temperature"),
        ("temperature", "warm", "warm"),
        ("classes", "[]", "two names or more"),
        ("classes", '["happy"]', "two names or more"),
        ("classes", '["happy", "happy"]', "each once"),
        ("classes", "[1, 2]", "two names or more"),
        ("classes", "[" * 100_000, "damaged"),
        ("training", "[]", "training is no object"),
        ("preprocess", json.dumps({**INFO.preprocess.to_dict(), "std": [1, float("nan"), 1]}), "std"),
    ],
)
def test_what_no_bundle_could_be_made_of_is_refused(entry: str, value: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ModelInfo.from_metadata({**INFO.to_metadata(), entry: value}, Path("x.safetensors"))


def test_a_file_that_is_no_checkpoint_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_bytes(b"hello world\n" * 50)
    with pytest.raises(InputError, match="not a readable checkpoint .damaged, or no file that torch saved"):
        read_official(tmp_path / "notes.pth")


@pytest.mark.parametrize(("name", "hint"), [("published.pth", True), ("mine.safetensors", False)])
def test_a_published_file_in_a_checkpoints_place_is_told_the_way(tmp_path: Path, name: str, hint: bool) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(range(256)))
    with pytest.raises(InputError, match="not a readable safetensors file") as caught:
        read_checkpoint(tmp_path / name)
    assert ("poster-edge convert" in str(caught.value)) == hint
