"""``explain`` on the packaged photos: pictures, shares, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from poster_edge.cli.explain import command
from poster_edge.errors import InputError, UsageError
from poster_edge.vision.relevance_picture import draw_relevance, heat
from poster_edge.vision.samples import SAMPLES


def run(*args: str) -> None:
    with click.Context(command) as context:
        command.parse_args(context, list(args))
        context.invoke(command, **context.params)


def test_photos_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--source", str(SAMPLES), "-o", str(tmp_path / "out"), "--detector", "haar", "--json", str(tmp_path / "r.json"))
    rows = json.loads((tmp_path / "r.json").read_text())
    assert [Path(r["source"]).name for r in rows] == ["astronaut.jpg", "grace_hopper.jpg"]
    for row in rows:
        assert row["label"] == row["explained"]
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert np.array(row["maps"]["image"]).shape == (3, 6, 6)
        picture = cv2.imread(row["picture"])
        assert picture is not None
        assert picture.shape[1] > picture.shape[0]
    assert "astronaut.jpg: happy" in capsys.readouterr().out


def test_another_class_and_photos_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "face.jpg").write_bytes((SAMPLES / "astronaut.jpg").read_bytes())
    out, report = tmp_path / "out", tmp_path / "r.json"
    run("-s", f"{tmp_path}/*/face.jpg", "-o", str(out), "--class", "sad", "--detector", "none", "--json", str(report))
    rows = json.loads(report.read_text())
    assert {r["explained"] for r in rows} == {"sad"}
    assert sorted(p.name for p in out.iterdir()) == ["face.png", "face_2.png"]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("--class", "cheerful"), UsageError, "--class cheerful: the model knows angry, disgust"),
        (("-s", "gone.jpg"), InputError, "gone.jpg: no such file"),
        (("--model", "{tiny}"), UsageError, "needs PyTorch weights.*--model FILE.safetensors"),
    ],
)
def test_refusals(
    args: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path, tiny_bundle: Path
) -> None:
    given = [a.replace("{tiny}", str(tiny_bundle)) for a in args]
    with pytest.raises(error, match=message):
        run("-s", str(SAMPLES), "-o", str(tmp_path), *given)


def test_videos_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"0")
    with pytest.raises(UsageError, match="takes photos, not videos"):
        run("-s", str(tmp_path), "-o", str(tmp_path / "out"))


def test_a_photo_that_cannot_be_read_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "face.jpg").write_bytes((SAMPLES / "astronaut.jpg").read_bytes())
    with pytest.raises(click.exceptions.Exit) as done:
        run("-s", str(tmp_path), "-o", str(tmp_path / "out"), "--detector", "none")
    assert done.value.exit_code == 1
    assert (tmp_path / "out" / "face.png").is_file()


def test_heat_lies_where_the_relevance_is() -> None:
    face = np.full((60, 60, 3), 128, np.uint8)
    relevance = np.zeros((6, 6), np.float32)
    relevance[1, 4] = 2.0
    drawn = heat(face, relevance).astype(int)
    changed = np.argwhere(np.abs(drawn - 128).sum(axis=2) > 60)
    assert changed.mean(axis=0) == pytest.approx([14.5, 44.5], abs=2)
    assert np.array_equal(heat(face, np.zeros((6, 6), np.float32)), face)


def test_one_stream_and_one_level_make_a_small_picture() -> None:
    maps = {"image": np.ones((1, 7, 7), np.float32)}
    small = draw_relevance(np.zeros((20, 20), np.uint8), maps, (128,), lines=["happy 90%"])
    both = draw_relevance(np.zeros((20, 20), np.uint8), maps | {"landmark": np.ones((1, 7, 7))}, (128,), lines=[])
    assert small.shape[0] < both.shape[0]
    assert small.shape[1] == both.shape[1] < 500
