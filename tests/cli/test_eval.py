"""What ``eval`` adds to the accuracy: each class, subsets by lists, size and cost, the features' picture."""

from __future__ import annotations

import json
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from poster_edge.cli.eval import command
from poster_edge.cli.eval_model import chosen_points, embed, size_and_cost
from poster_edge.cli.eval_report import open_subsets, per_class, with_interval
from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.faces import load_faces
from poster_edge.errors import InputError, UsageError
from poster_edge.models.registry import REGISTRY
from poster_edge.runtime.bundle import load_bundle
from poster_edge.train.metrics import evaluate
from poster_edge.vision.scatter import draw_scatter

CLASSES = ("happy", "sad", "fear")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noise faces of each of two classes, in class folders."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for name in CLASSES[:2]:
        (root / name).mkdir()
        for i in range(6):
            cv2.imwrite(str(root / name / f"{name}_{i}.png"), rng.integers(0, 255, (48, 48), dtype=np.uint8))
    return root


def run(*args: str) -> None:
    with click.Context(command) as context:
        command.parse_args(context, ["--runtime", "onnxruntime", *args])
        context.invoke(command, **context.params)


def test_per_class_by_hand() -> None:
    found = per_class([[3, 1, 0], [2, 2, 0], [0, 0, 0]], CLASSES)
    assert found["happy"] == {
        "images": 4,
        "recall": 0.75,
        "precision": 0.6,
        "f1": 6 / 9,
        "taken_for": "sad",
        "taken_for_share": 0.25,
    }
    assert found["fear"] == dict.fromkeys(found["fear"]) | {"images": 0}


@pytest.mark.parametrize(
    ("right", "count", "told"),
    [
        (0, 6, "0.00% (0.0% to 39.0%)"),
        (6, 6, "100.00% (61.0% to 100.0%)"),
        (50, 100, "50.00% ± 9.62%"),
        (2401, 3589, "66.90% ± 1.56%"),
    ],
)
def test_few_faces_have_an_uneven_interval(right: int, count: int, told: str) -> None:
    labels = np.zeros(count, np.int64)
    logits = np.eye(2)[(np.arange(count) >= right).astype(int)]
    assert with_interval(evaluate(logits, labels, ("happy", "sad")).to_dict()) == told


def test_subsets_size_and_json(folders: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    listing = tmp_path / "occlusion.txt"
    listing.write_text("0/happy_1.jpg\nsad_4.png 3 1\nabsent.jpg\n")
    report = tmp_path / "r.json"
    run("--model", str(tiny_bundle), "--data", str(folders), "--subset", f"occlusion={listing}", "--json", str(report))
    found = json.loads(report.read_text())
    assert found["count"] == 12
    occluded = found["subsets"]["occlusion"]
    assert (occluded["count"], occluded["listed"], occluded["missing"]) == (2, 3, 1)
    assert sum(map(sum, occluded["confusion"])) == 2
    assert found["size_and_cost"] is None, "no configuration is called 'tiny'"
    assert found["per_class"]["happy"]["images"] == 6


def test_what_cannot_be_read_is_named_and_the_rest_is_measured(tmp_path: Path, tiny_bundle: Path) -> None:
    """A training image, which is only looked at for twins, and a whole batch of test images."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 5)):
        for name in CLASSES[:2]:
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for i in range(count):
                face = rng.integers(0, 255, (48, 48), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / "d" / part / name / f"{i}.png"), face)
    report = tmp_path / "r.json"
    line = ["--model", str(tiny_bundle), "--data", str(tmp_path / "d"), "--batch", "2", "--json", str(report)]
    (tmp_path / "d" / "train" / "sad" / "1.png").write_bytes(b"torn")
    run(*line)
    assert json.loads(report.read_text())["count"] == 10
    for i in (0, 1):
        (tmp_path / "d" / "test" / "happy" / f"{i}.png").write_bytes(b"torn")
    with pytest.raises(InputError, match="2 of 10 images could not be read"):
        run(*line)
    found = json.loads(report.read_text())
    assert (found["count"], found["unreadable"]) == (8, 2)
    for file in (tmp_path / "d" / "test").glob("*/*.png"):
        file.write_bytes(b"torn")
    with pytest.raises(InputError, match="not one of 10 images could be read"):
        run(*line)


def test_rows_without_a_label_that_counts_are_told(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "7").mkdir()
    for code in (0, 7):
        cv2.imwrite(str(tmp_path / "val" / str(code) / "a.png"), np.full((48, 48), 30 * code, np.uint8))
    run("--model", str(tiny_bundle), "--data", str(tmp_path), "--dataset", "affectnet7")
    assert "no label that counts" in capsys.readouterr().out


def test_features_are_drawn_from_the_bundles_weights(folders: Path, tmp_path: Path) -> None:
    picture, report = tmp_path / "t.png", tmp_path / "r.json"
    run("--data", str(folders), "--tsne", str(picture), "--json", str(report))
    found = json.loads(report.read_text())
    assert found["tsne"] == {"file": "t.png", "points": 12, "width": 128}
    assert found["size_and_cost"]["flops"] == REGISTRY[DEFAULT_MODEL].flops
    image = cv2.imread(str(picture))
    assert image is not None
    assert (image.std(axis=2) > 30).sum() > 100, "there are coloured points"


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("--tsne", "t.jpg"), UsageError, "--tsne t.jpg: expected a file name that ends in .png"),
        (("--checkpoint", "c.safetensors"), UsageError, "--checkpoint gives --tsne its features"),
        (("--tsne", "t.png"), UsageError, "needs PyTorch weights, and .* holds none.*--checkpoint FILE"),
        (("--tsne", "t.png", "--checkpoint", "gone.safetensors"), InputError, "no such checkpoint: gone"),
        (("--subset", "occlusion"), UsageError, "expected NAME=FILE"),
        (("--subset", "a=gone.txt"), InputError, r"gone\.txt: not a readable list"),
    ],
)
def test_refusals_come_before_any_work(
    args: tuple[str, ...], error: type[Exception], message: str, folders: Path, tiny_bundle: Path
) -> None:
    with pytest.raises(error, match=message):
        run("--model", str(tiny_bundle), "--data", str(folders), *args)


def test_weights_of_another_model_are_refused(folders: Path, tiny_bundle: Path) -> None:
    weights = load_bundle("poster-nano").folder / "model.safetensors"
    with pytest.raises(UsageError, match="not what the bundle was exported from"):
        run("--model", str(tiny_bundle), "--data", str(folders), "--tsne", "t.png", "--checkpoint", str(weights))


def test_splits_that_share_everything_or_nothing(tmp_path: Path, tiny_bundle: Path) -> None:
    for part, name in (("train", "a"), ("test", "b")):
        (tmp_path / part / "happy").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / part / "happy" / f"{name}.png"), np.zeros((48, 48), np.uint8))
    # Their pixels are the same: every measured image is a training image's twin.
    report = tmp_path / "r.json"
    run("--model", str(tiny_bundle), "--data", str(tmp_path), "--json", str(report))
    found = json.loads(report.read_text())
    assert (found["twins"], found["count"], "without_twins" in found) == (1, 1, False)
    listing = tmp_path / "l.txt"
    listing.write_text("a.png\n")
    with pytest.raises(InputError, match="--subset pose: none of its images is in the 'test' split"):
        run("--model", str(tiny_bundle), "--data", str(tmp_path), "--subset", f"pose={listing}")


def test_a_subsets_name_is_given_once(folders: Path, tmp_path: Path) -> None:
    listing = tmp_path / "l.txt"
    listing.write_text("happy_1\n")
    with pytest.raises(UsageError, match="'a' is given twice"):
        open_subsets((f"a={listing}", f"a={listing}"), load_faces(folders))


def test_another_class_count_is_counted_and_not_looked_up() -> None:
    bundle = load_bundle("poster-nano")
    seven = size_and_cost(bundle)
    manifest = type(bundle.manifest)(**{**vars(bundle.manifest), "classes": (*bundle.manifest.classes, "contempt")})
    eight = size_and_cost(type(bundle)(bundle.folder, manifest))
    assert seven is not None
    assert eight is not None
    assert eight["parameters"] - seven["parameters"] == 129


def test_embedding_keeps_groups_apart() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.1, (40, 8)).astype(np.float32)
    features[20:] += 5
    points = embed(features)
    gap = np.linalg.norm(points[:20].mean(axis=0) - points[20:].mean(axis=0))
    assert gap > 2 * max(points[:20].std(), points[20:].std())
    with pytest.raises(UsageError, match="at least 10 images; 3 were measured"):
        embed(features[:3])


def test_so_many_points_at_most() -> None:
    assert len(chosen_points(12)) == 12
    rows = chosen_points(7000)
    assert len(np.unique(rows)) == 2000
    assert rows.max() < 7000


def test_points_are_drawn_inside_the_picture() -> None:
    picture = draw_scatter(np.array([[0.0, 0.0], [1.0, 50.0]]), np.array([0, 1]), CLASSES, caption="c")
    coloured = np.argwhere(picture[:, :640].std(axis=2) > 30)
    assert coloured.min() > 5
    assert coloured.max(axis=0)[0] < 640
