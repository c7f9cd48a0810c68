"""What fits of another network is taken over, by name and shape; what the classes decide is not."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from poster_edge.data.faces import load_faces
from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import load_model
from poster_edge.models.config import model_config
from poster_edge.runtime.bundle import WEIGHTS_FILE, load_bundle
from poster_edge.train.landmarks import LandmarkSet
from poster_edge.train.loop import Device
from poster_edge.train.recipe import Recipe
from poster_edge.train.reporter import Reporter
from poster_edge.train.run import TrainingRun
from poster_edge.train.starting_weights import StartingWeights

PACKAGED = load_bundle("poster-nano").folder / WEIGHTS_FILE
CLASSES = load_bundle("poster-nano").manifest.classes


def test_a_run_for_other_classes(tmp_path: Path) -> None:
    """The packaged model tells seven classes apart, this run two: all but the head is taken."""
    images, labels = np.zeros((8, 48, 48), np.uint8), np.arange(8) % 2
    images += np.arange(8, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "d.npz", images=images, labels=labels, classes=np.array(["happy", "sad"]))
    run = TrainingRun(
        tmp_path / "r",
        "poster-nano",
        load_faces(tmp_path / "d.npz"),
        LandmarkSet(np.zeros((8, 68, 2), np.float32), np.ones(8, bool)),
        recipe=Recipe(batch=2),
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=create_autospec(Reporter, instance=True),
        weights=StartingWeights(transfer=PACKAGED),
    )
    run.start(resume=False)
    assert run.train_landmarks() == {}, "the stream comes trained, though points were given"
    own, kept = run.model.state_dict(), load_model(PACKAGED)[0].state_dict()
    anew = {n for n, v in own.items() if v.shape != kept[n].shape}
    assert len(anew) == 2
    assert all(n.startswith("head.") for n in anew)
    assert all(torch.equal(own[n], kept[n]) for n in own.keys() - anew)
    taken, unused, *_ = run.weights.notes(run.taken, run.preprocess, with_points=True)
    assert f"(poster-nano): {len(own) - 2} of {len(own)} entries fit and are taken; anew: head (2)" in taken
    assert unused == "--transfer brings the landmark stream too: --landmarks is not learned from"
    assert "model.safetensors sha256:" in run.describe()["transfer"]


def test_classes_in_another_order_are_other_classes() -> None:
    weights, network = StartingWeights(transfer=PACKAGED), build_network(model_config("poster-nano", num_classes=7))
    assert weights.load(network, CLASSES).note.endswith("anew: nothing")
    assert weights.load(network, CLASSES[::-1]).note.endswith("anew: head (2)")


def test_another_size() -> None:
    """A wider image stream begins anew; landmark stream and transformer are the same."""
    wider = build_network(model_config("poster-micro", num_classes=7))
    taken = StartingWeights(transfer=PACKAGED).load(wider, CLASSES)
    assert taken.landmarks
    assert taken.note.endswith("366 of 431 entries fit and are taken; anew: ir_back (64), ir_layer (1)")
    larger = build_network(model_config("poster-48", num_classes=7))
    assert not StartingWeights(transfer=PACKAGED).load(larger, CLASSES).landmarks, "its tokens are wider"


def test_what_does_not_go_together() -> None:
    other = build_network(model_config("cf-dan-nano", num_classes=7))
    with pytest.raises(UsageError, match="is poster-nano: nothing of it fits cf-dan-nano"):
        StartingWeights(transfer=PACKAGED).load(other, CLASSES)
    with pytest.raises(UsageError, match="--transfer brings the whole network's weights with it: leave out --trunk"):
        StartingWeights(transfer=PACKAGED, trunk=PACKAGED)
    with pytest.raises(UsageError, match="--init brings .*: leave out --transfer"):
        StartingWeights(init=PACKAGED, transfer=PACKAGED)
