"""Options that would have no effect, values that are no numbers, places that cannot be written: refused at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poster_edge.cli.main import main
from poster_edge.labels import LABEL_SETS

PHOTO = Path(__file__).parents[2] / "poster_edge/zoo/samples/astronaut.jpg"

Ends = Callable[..., "tuple[int, str]"]


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ends:
    """Run a command in this process, in an empty folder; returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["poster-edge", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export --calib-method minmax", "--calib-method"),
        ("export --half --weight-bits 7", "--weight-bits"),
        ("export --int8 --calib-images 9", "--calib DATA is what goes with --calib-images"),
        ("export --half --seed 1", "--seed"),
        ("export --no-gate", "--gate"),
        ("export --judge-images 9", "--judge-images"),
        ("export --threads 2", "--threads"),
        ("export --target openvino", "--target"),
        ("export --half --compare 3", "--compare would have no effect"),
        ("export --compare 0", "--compare"),
        ("export --half --seed -1", "--seed"),
        ("export --name a/b", "plain name"),
        ("export --name ..", "plain name"),
        ("export --name=", "plain name"),
        ("export -o /", "the name of a new folder"),
        ("bench --faces 9", "--faces is about labelled faces"),
        ("bench --dataset rafdb", "--dataset is about labelled faces"),
        ("bench --detector haar", "--detector is about frames"),
        ("bench --duration nan", "--duration"),
        ("bench --duration inf", "--duration"),
        ("bench --threads 1,9999999", "--threads"),
        ("bench --json x --csv x", "x is named twice"),
        ("bench --json=", "a file's name"),
        ("profile --runs 9", "--runs is for --layers"),
        ("profile --top 9", "--top is for --layers"),
        ("profile --layers --top 9 --json -", "--top is for --layers and a table"),
        ("profile --batch 9", "--batch is for --layers or --target"),
        ("profile --idle 1", "--idle is for --energy"),
        ("profile --energy --idle nan", "--idle"),
        ("profile --json=", "--json is empty"),
        ("run --source x --conf nan", "--conf"),
        ("run --source x --threads 999999", "--threads"),
        ("run --source x --save=", "--save"),
        ("run --source x --jsonl=", "--jsonl is empty"),
        ("run --source x --save y.jpg --jsonl y.jpg", "--save and --jsonl are both y.jpg"),
        ("export --output=", "--output"),
    ],
)
def test_what_would_have_no_effect_is_wrong_usage(ends: Ends, words: str, said: str, tmp_path: Path) -> None:
    code, err = ends(*words.split())
    assert code == 2, err
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "export --half -o file/bundle",
        "export --half --report file",
        "export --format triton -o file/repository",
        "bench --json file/x.json",
        "bench --csv folder",
        "profile --html file/x.html",
        "profile --json folder",
    ],
)
def test_what_cannot_be_written_is_said_before_any_work(ends: Ends, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    code, err = ends(*words.split())
    assert code == 1, err
    assert err.count("\n") == 1
    assert "cannot write" in err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_bundle_gets_the_name_that_was_asked_for(ends: Ends, tmp_path: Path) -> None:
    from poster_edge.runtime.bundle import load_bundle

    code, err = ends("export", "--half", "--no-gate", "--name", "mine", "-o", "b")
    assert code == 0, err
    bundle = load_bundle(tmp_path / "b")
    assert bundle.manifest.model == "mine"
    card = bundle.read("MODEL_CARD.md").decode()
    assert "\n# mine\n" in card
    assert "\n- name: mine\n" in card


def test_more_frames_than_there_can_be_are_all(ends: Ends) -> None:
    code, err = ends("run", "--source", str(PHOTO), "--detector", "none", "--max-frames", str(10**30))
    assert code == 0, err


@pytest.fixture(scope="module")
def not_a_number(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers "nan" for its fourth class."""
    onnx = pytest.importorskip("onnx")
    from dataclasses import replace

    from poster_edge.runtime.bundle import load_bundle, write_bundle

    bundle, folder = load_bundle(tiny_bundle), tmp_path_factory.mktemp("nan")
    model = onnx.load_from_string(bundle.read("model.onnx"))
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[:, 3] = np.nan
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, model.graph.initializer[0].name))
    onnx.save(model, str(folder / "m.onnx"))
    write_bundle(folder / "b", replace(bundle.manifest, artefacts={}), {"model.onnx": folder / "m.onnx"})
    return folder / "b"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_answer_that_is_no_number_is_no_label(ends: Ends, runtime: str, not_a_number: Path) -> None:
    """As FP16 gives where its range ends; the largest of "nan" would be the first class."""
    pytest.importorskip(runtime)
    words = ("run", "--source", str(PHOTO), "--detector", "none", "--runtime", runtime)
    code, err = ends(*words, "--model", str(not_a_number))
    assert code == 4, err
    assert "frame 0: the network's answer on" in err
    assert "not finite" in err


@pytest.mark.parametrize("command", ["eval", "bench --runtime onnxruntime --duration 0.1 --allow-noisy"])
def test_answers_that_are_no_numbers_have_no_accuracy(
    ends: Ends, command: str, not_a_number: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    images = np.random.default_rng(0).integers(0, 256, (14, 16, 16)).astype(np.uint8)
    classes = np.array(LABEL_SETS["fer2013"].classes)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(14) % 7, classes=classes)
    code, err = ends(*command.split(), "--data", "d.npz", "--model", str(not_a_number))
    assert code == 4, err
    assert "d.npz: the network's answer on" in err
    assert "not finite" in err
