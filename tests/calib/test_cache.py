"""calibration.json: written, read, and refused when it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from poster_edge.calib.cache import Calibration, parse_calibration
from poster_edge.calib.suitability import FEATURES, ImageStatistics
from poster_edge.errors import UnavailableError

STATISTICS = ImageStatistics(40, (0.0,) * len(FEATURES), (1.0,) * len(FEATURES), (0.5, 0.5))
RANGES = {"x": {"minmax": 3.0, "entropy": 2.0, "percentile": 2.5, "mse": 1.5}}
CALIBRATION = Calibration("a" * 64, "b" * 64, "faces", 40, 0, STATISTICS, RANGES)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.write(path)
    assert parse_calibration(path.read_bytes(), "x") == CALIBRATION
    assert CALIBRATION.of("entropy") == {"x": 2.0}


def test_other_graph_and_other_images_are_refused() -> None:
    CALIBRATION.check_fits("a" * 64, data_sha256="b" * 64)
    with pytest.raises(UnavailableError, match="of another graph .aaaaaaaaaaaa…, this one is cccccccccccc…"):
        CALIBRATION.check_fits("c" * 64)
    with pytest.raises(UnavailableError, match="of other images"):
        CALIBRATION.check_fits("a" * 64, data_sha256="c" * 64)
    assert UnavailableError.exit_code == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "schema 9"),
        ({"ranges": {}}, "no ranges"),
        ({"ranges": {"x": {"minmax": 1.0}}}, "'x' needs a range for each of"),
        ({"ranges": {"x": {**RANGES["x"], "mse": -1.0}}}, "-1.0 of 'x' is no finite number"),
        ({"ranges": {"x": {**RANGES["x"], "mse": float("nan")}}}, "nan of 'x' is no finite number"),
        ({"ranges": {"x": {**RANGES["x"], "mse": True}}}, "True of 'x' is no finite number"),
        ({"statistics": None}, "statistics"),
        ({"extra": 1}, "expected an object with"),
    ],
)
def test_damaged_entries_are_named(change: dict, message: str) -> None:
    values = {**json.loads(CALIBRATION.to_json()), **change}
    with pytest.raises(UnavailableError, match=message):
        parse_calibration(json.dumps(values), "calibration.json")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_files(text: bytes) -> None:
    with pytest.raises(UnavailableError, match=r"calibration.json: damaged .*calibrate again"):
        parse_calibration(text, "calibration.json")


def test_summary_names_method_and_data() -> None:
    summary = replace(CALIBRATION, seed=7).summary("mse")
    assert (summary["method"], summary["images"], summary["seed"], summary["data"]) == ("mse", 40, 7, "faces")
