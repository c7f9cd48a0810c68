"""Event files hold what TensorBoard's own reader finds in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from poster_edge.errors import UnavailableError
from poster_edge.train.events import EventLog

pytest.importorskip("tensorboard")


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def start(self, phase: str, steps: int) -> None:
        self.heard.append((phase, steps))

    def tick(self) -> None:
        self.heard.append("tick")

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        self.heard.append(row)


def test_figures_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    notes = Notes()
    for epochs in ([1, 2], [2, 3]):  # a run and its resumption, which repeats an epoch
        with EventLog(tmp_path / "events", notes) as log:
            log.start("expression", 4)
            log.tick()
            for epoch in epochs:
                log.epoch("metrics", {"epoch": epoch, "accuracy": epoch / 4})
    assert notes.heard[:3] == [("expression", 4), "tick", {"epoch": 1, "accuracy": 0.25}]
    found = EventAccumulator(str(tmp_path / "events" / "metrics")).Reload()
    assert found.Tags()["scalars"] == ["accuracy"]
    assert [(e.step, e.value) for e in found.Scalars("accuracy")] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_nothing_to_tell_leaves_nothing(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events", Notes()):
        pass
    assert not (tmp_path / "events").exists()


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poster_edge.optional.available", lambda name: name != "tensorboard")
    with pytest.raises(UnavailableError, match=r"pip install 'poster-edge\[tensorboard\]'"):
        EventLog(tmp_path, Notes())
