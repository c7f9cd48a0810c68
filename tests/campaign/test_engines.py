"""Long checks around engines: 5,000 damaged ONNX files, and 200 kills of each thing that is published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from poster_edge.export.tensorrt_api import TensorRt

pytestmark = pytest.mark.campaign
ROOT = Path(__file__).parents[2]


def test_damaged_onnx_files_are_built_or_refused_by_one_line(rtx: TensorRt, tmp_path: Path) -> None:
    """``benchmarks/broken_onnx.py`` exits with 1 when a file does anything else, and names it."""
    words = [sys.executable, ROOT / "benchmarks" / "broken_onnx.py", "--record", tmp_path / "record.json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "record.json").read_text())
    assert report["faults"] == []
    assert sum(report["outcomes"].values()) == 5000
    assert report["outcomes"]["built"] > 200
    assert report["outcomes"]["refused"] > 2000


def test_200_kills_of_a_cache_that_publishes(tmp_path: Path) -> None:
    report = children("kills", tmp_path / "engines")
    assert report["wrong"] == 0, report
    assert report["read"] > 200, report
    assert report["temporaries"] + report["no record"] > 20, f"the kills missed the publishing: {report}"
    assert report["temporaries left"] == 0, report
    assert report["plans left"] == report["records left"], report


def test_200_kills_of_an_export_that_replaces_a_bundle(tmp_path: Path) -> None:
    report = children("bundle_kills", tmp_path)
    assert (report["whole"], report["wrong"], report["temporaries left"]) == (200, 0, 0), report
    assert report["killed while writing"] > 50, report


def children(program: str, folder: Path) -> dict[str, int]:
    words = [sys.executable, ROOT / "tests" / "runtime" / "engine_children.py", program, folder, "200"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
