"""The detailed clock: what "capture" and "infer" hold otherwise is told apart, and the sum stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from poster_edge.pipeline.filelist import FileList
from poster_edge.pipeline.stages import DETAILED_STAGES, Pipeline, painter
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.faces import WholePicture
from poster_edge.vision.samples import SAMPLES


@pytest.fixture
def classifier(tiny_bundle: Path) -> Iterator[Classifier]:
    with Classifier(load_bundle(tiny_bundle), runtime="onnxruntime", device="cpu") as opened:
        yield opened


def test_stages_of_a_photo(classifier: Classifier) -> None:
    frame = next(iter(FileList([SAMPLES / "astronaut.jpg"], report=pytest.fail)))
    assert 0 < frame.decode_ms < frame.capture_ms
    detailed = Pipeline(WholePicture(), classifier, painter=painter(), detailed=True).process(frame).latency_ms
    assert set(detailed) == set(DETAILED_STAGES)
    assert detailed["capture"] + detailed["decode"] == pytest.approx(frame.capture_ms)
    assert detailed["copy"] == 0
    assert detailed["post"] > 0
    plain = Pipeline(WholePicture(), classifier, painter=painter()).process(frame).latency_ms
    assert list(plain) == ["capture", "detect", "align", "preprocess", "infer", "draw"]
    assert plain["capture"] == frame.capture_ms


def test_a_cpu_has_no_copies_to_time(classifier: Classifier) -> None:
    assert not classifier.time_copies()
