"""What a model card says of where weights come from, for every way a training can begin."""

from __future__ import annotations

from typing import Any

import pytest

from poster_edge.export.card import model_card

FACTS = {"input": "float32 (N, 3, 48, 48), gray"}
FIGURES = {
    "count": 4,
    "accuracy": 0.75,
    "macro_f1": 0.7,
    "mean_class_accuracy": 0.7,
    "ece": 0.1,
    "recall": {"happy": 1.0, "sad": None},
    "confusion": [[3, 1], [0, 0]],
}
POSTER = {"landmarks": False, "landmark_recipe": {}}


def card(dataset: str = "rafdb", **training: Any) -> str:
    known = {
        "train_images": 40,
        "data": "faces.npz",
        "validation_twins": 0,
        "epoch": 3,
        "temperature": 1.0,
        "recipe": {"epochs": 4, "teacher_weight": 0.8},
        "validation": FIGURES,
        "validation_without_twins": FIGURES,
    }
    return model_card("mine", ("happy", "sad"), dataset, {**known, **training}, FACTS)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({**POSTER, "landmarks": True}, "was pre-trained on 68 points a face, then held still."),
        ({**POSTER, "init": "a.safetensors sha256:1"}, "came with the weights that the run began from."),
        ({**POSTER, "transfer": "a.safetensors sha256:1"}, "came with the weights that the run began from."),
        ({**POSTER, "landmark_weights": "m.pth.tar sha256:1"}, "came with the weights that the run began from."),
        (POSTER, ""),
        ({"init": "a.safetensors sha256:1"}, ""),
    ],
    ids=["own points", "init", "transfer", "published", "never trained", "no such stream"],
)
def test_where_a_landmark_stream_comes_from(training: dict[str, Any], words: str) -> None:
    text = card(**training)
    assert ("**Landmarks.**" in text) == bool(words)
    assert words in text
    assert "Face Mesh" not in text, "that is said of FER2013's points only"
    assert ("Face Mesh" in card("fer2013", **training)) == bool(words)


def test_starting_weights_and_teachers_are_named() -> None:
    text = card(init="a.safetensors sha256:1", teachers=["b.safetensors sha256:2", "c.safetensors sha256:3"])
    assert "The run began from a.safetensors sha256:1." in text
    assert "to 80% the opinion of trained networks: b.safetensors sha256:2, c.safetensors sha256:3." in text
    assert "more optimistic" in text


def test_a_training_from_scratch_names_no_other_network() -> None:
    text = card()
    assert not any(words in text for words in ("began from", "opinion", "more optimistic", "FP16"))


def test_figures_are_said_to_be_of_the_weights_before_rounding() -> None:
    assert "They are of the weights before these were rounded to FP16." in card(rounded_to="fp16")


def test_a_converted_checkpoint_has_no_figures() -> None:
    text = model_card("mine", ("happy", "sad"), "rafdb", {}, FACTS)
    assert "accuracy" not in text
    assert "Art. 5(1)(f)" in text
