"""Images in memory and images read from their files when they are asked for are the same images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from poster_edge.calib.temperature import fit_temperature
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.errors import InputError, UsageError
from poster_edge.train.loop import Device
from poster_edge.train.pictures import Pictures, free_bytes
from poster_edge.train.prepare import at_once
from poster_edge.train.recipe import Recipe
from poster_edge.train.reporter import Silence
from poster_edge.train.run import TrainingRun
from poster_edge.train.state import load_state


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Colour faces of odd sizes in class folders, more than one thread's piece."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("happy", "sad"):
        (folder / name).mkdir()
        for i in range(21):
            image = rng.integers(0, 80, (30 + i, 40, 3), dtype=np.uint8)
            image[: 15 if name == "sad" else None] += 100
            assert cv2.imwrite(str(folder / name / f"{i}.png"), image)
    return load_faces(folder)


def pictures(faces: FaceSet, kind: str, *, colour: str = "bgr", sharers: int = 1) -> Pictures:
    return Pictures(faces, np.arange(1, len(faces)), 24, colour, Device(), kind=kind, sharers=sharers)


@pytest.mark.parametrize("colour", ["gray", "rgb", "bgr"])
def test_both_ways_give_the_rows_that_are_asked_for(faces: FaceSet, colour: str) -> None:
    rows = np.array([41, 1, 7, 7, *range(10, 40)])
    expected = torch.from_numpy(faces.squares(rows, 24, colour))
    for kind, kept in (("memory", True), ("files", False), ("auto", True)):
        found = pictures(faces, kind, colour=colour)
        assert found.in_memory == kept
        assert found.shape == (len(faces), *expected.shape[1:])
        assert torch.equal(found[torch.from_numpy(rows)], expected)
        assert found[torch.arange(0)].shape == (0, *expected.shape[1:])


def test_what_does_not_fit_stays_in_its_files(faces: FaceSet) -> None:
    free = free_bytes()
    assert free is None or free > 1 << 20
    # So many processes that their copies of 41 small images fill any machine.
    found = pictures(faces, "auto", sharers=10**10)
    assert found.in_memory == (free is None)
    with pytest.raises(UsageError, match=r"41 images of 24 x 24 take \d+\.\d GiB.*use --images files"):
        pictures(faces, "memory", sharers=10**10)


def test_an_image_that_went_away_is_named(faces: FaceSet, tmp_path: Path) -> None:
    (tmp_path / "happy").mkdir()
    file = tmp_path / "happy" / "a.png"
    assert cv2.imwrite(str(file), np.zeros((9, 9), np.uint8))
    found = Pictures(load_faces(tmp_path), np.arange(1), 8, "gray", Device(), kind="files")
    file.unlink()
    with pytest.raises(InputError, match=r"a\.png: No such file"):
        found[torch.tensor([0])]


def test_a_run_does_not_depend_on_it(faces: FaceSet, tmp_path: Path) -> None:
    states = []
    for kind in ("memory", "files"):
        run = TrainingRun(
            tmp_path / kind,
            "cf-dan-nano",
            faces,
            None,
            recipe=Recipe(epochs=1, warmup=0, batch=18),
            landmark_epochs=1,
            device=Device(),
            reporter=Silence(),
            images=kind,
        )
        run.start(resume=False)
        assert run.train_expression()
        run.finish(fit_temperature, {})
        states.append(load_state(tmp_path / kind / "last.safetensors")["model"])
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize(("side", "name", "expected"), [(48, "cpu", 256), (48, "cuda:0", 1024), (224, "cuda:0", 167)])
def test_large_images_go_through_a_network_a_few_at_once(side: int, name: str, expected: int) -> None:
    assert at_once(side, Device(name)) == expected
