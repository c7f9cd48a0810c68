"""``poster-edge bench``: records, plots, exit codes, and the mark of a disturbed run."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from rich.console import Console

from poster_edge.bench.environment import read_environment
from poster_edge.bench.noise import Noise
from poster_edge.bench.records import Answers, Group, Record, Row, missing
from poster_edge.bench.state import State
from poster_edge.bench.statistics import Ratio, summarise
from poster_edge.cli.bench_plot import _crosses, _scatter, draw
from poster_edge.cli.bench_report import _tables, check_outputs, deliver, figure
from poster_edge.errors import UsageError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def row(label: str, runtime: str, ms: float, accuracy: float | None, size: float) -> Row:
    """A row as a run on a quiet machine leaves it."""
    times = summarise(np.linspace(0.9, 1.1, 100) * ms, batch=1)
    answers = Answers(1000, accuracy, 0.01 if accuracy else None, 0.98, 7)
    ratio = None if runtime == "torch" else Ratio(20 / ms, 19 / ms, 21 / ms)
    about = {"precision": "fp32", "scope": "model", "batch": 1, "threads": 2, "device": "cpu", "ran": runtime}
    rest = {"file": "model.onnx", "baseline": "PyTorch eager", "rounds": 40, "base_mib": 50.0, "load_s": 1.0}
    memory = {"rss_mib": 100.0, "peak_rss_mib": 110.0}
    return Row(  # type: ignore[arg-type]
        "nano", label, runtime, **about, file_mb=size, times=times, ratio=ratio, answers=answers, **rest, **memory
    )


def record(*reasons: str, accuracy: float | None = 0.65) -> Record:
    """A run of three candidates."""
    noise = Noise(reasons, (), 0.01, 0.0, 5.0, 0.02, 0.0, {"cpu0": (1500.0, 1500.0)}, State(), State())
    rows = (
        row("PyTorch eager", "torch", 20.0, accuracy, 5.0),
        row("onnxruntime fp32", "onnxruntime", 4.0, accuracy, 4.9),
        row("onnxruntime int8", "onnxruntime", 3.0, accuracy and accuracy - 0.01, 1.6),
    )
    return Record(read_environment(), {"duration_s": 10.0}, (Group(rows, noise),))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few noise faces of every class of the tiny bundle."""
    path = tmp_path_factory.mktemp("faces") / "faces.npz"
    images = np.random.default_rng(0).integers(0, 255, (28, 16, 16), dtype=np.uint8)
    classes = np.array(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"])
    np.savez(path, images=images, labels=np.arange(28) % 7, classes=classes)
    return path


def test_a_whole_run(poster_edge: Command, tiny_bundle: Path, labelled: Path, tmp_path: Path) -> None:
    options = ["--runtime", "onnxruntime,openvino", "--batch", "1,2", "--threads", "1", "--duration", "0.2"]
    outputs = ["--json", "a.json", "--csv", "a.csv", "--plot", "a.png", "--plot", "a.html"]
    done = poster_edge(
        "bench", "--model", str(tiny_bundle), *options, "--data", str(labelled), *outputs, "--allow-noisy", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "no PyTorch baseline" in done.stderr
    assert "openvino fp32" in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["schema"], found["kind"]) == (1, "poster-edge bench")
    assert found["environment"]["versions"]["onnxruntime"]
    assert [[(r["label"], r["batch"]) for r in g["rows"]] for g in found["groups"]] == [
        [("onnxruntime fp32", b), ("openvino fp32", b)] for b in (1, 2)
    ]
    first, second = found["groups"][1]["rows"]
    assert first["ratio"] is None
    assert second["ratio"]["low"] <= second["ratio"]["value"] <= second["ratio"]["high"]
    # The same answers for each batch size, asked for once.
    assert first["answers"] == found["groups"][0]["rows"][0]["answers"]
    assert second["answers"]["agreement"] == 1.0
    assert 0 <= first["answers"]["accuracy"] < 0.5
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 4
    assert all(r["machine"] and r["date"] and r["versions"] and float(r["p50_ms"]) > 0 for r in rows)
    assert cv2.imread(str(tmp_path / "a.png")).shape[2] == 3
    assert "openvino fp32" in (tmp_path / "a.html").read_text()


def test_eager_pytorch_is_the_baseline(poster_edge: Command) -> None:
    done = poster_edge(
        "bench", "--runtime", "onnxruntime", "--threads", "1", "--duration", "0.3", "--csv", "-", "--allow-noisy"
    )
    assert done.returncode == 0, done.stderr
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert (first["label"], first["ratio"], first["file"]) == ("PyTorch eager", "", "model.safetensors")
    assert second["baseline"] == "PyTorch eager"
    assert float(second["ratio_low"]) > 1
    assert float(first["rss_mib"]) > float(second["rss_mib"]) > float(second["base_mib"])


def test_a_run_beside_a_busy_process_is_marked(poster_edge: Command, tiny_bundle: Path) -> None:
    pin = "import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    neighbour = subprocess.Popen([sys.executable, "-c", f"{pin}print(flush=True)\nwhile True: pass"], stdout=-1)
    assert neighbour.stdout is not None
    neighbour.stdout.readline()
    try:
        run = ["bench", "--model", str(tiny_bundle), "--runtime", "onnxruntime", "--threads", "1", "--duration", "1"]
        done = poster_edge(*run, "--json", "-")
    finally:
        neighbour.kill()
        neighbour.wait()
        neighbour.stdout.close()
    assert done.returncode == 1
    assert "NOISY: do not believe these figures" in done.stderr
    found = json.loads(done.stdout)
    assert found["noisy"] is True
    assert any("other processes kept" in reason for reason in found["reasons"])
    assert found["groups"][0]["noise"]["foreign_cores"] > 0.3


def test_what_is_asked_for_by_name_is_served_or_an_error(poster_edge: Command, tiny_bundle: Path) -> None:
    done = poster_edge("bench", "--model", str(tiny_bundle), "--precision", "int8", "--runtime", "onnxruntime")
    assert (done.returncode, done.stdout) == (4, "")
    assert "no int8 model, it has fp32" in done.stderr


def test_a_quiet_record_is_not_marked(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(record(), json_path=None, csv_path=None, plots=())
    printed = capsys.readouterr()
    assert "NOISY" not in printed.out + printed.err
    assert "20.0" in printed.out
    deliver(record("other processes kept 1.00 processors busy"), json_path=None, csv_path=None, plots=())
    printed = capsys.readouterr()
    assert "NOISY  nano" in printed.out
    assert "NOISY: other processes" in printed.err


@pytest.mark.parametrize("width", [80, 150])
def test_tables_fit_their_terminal(width: int) -> None:
    rows = record().groups[0].rows
    found = _tables("nano", rows, noisy=False, width=width)
    assert len(found) == (2 if width == 80 else 1)
    screen = Console(width=width, file=io.StringIO())
    for part in found:
        screen.print(part)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert all(cell in text for cell in ("onnxruntime int8", "20.0", "6.67 (6.33–7.00)", "64.00 ±1.00"))


def test_records_hold_no_noise_without_reasons() -> None:
    assert json.loads(record().to_json())["noisy"] is False
    noisy = json.loads(record("hot").to_json())
    assert (noisy["noisy"], noisy["reasons"]) == (True, ["hot"])
    assert {r["noise"] for r in csv.DictReader(io.StringIO(record("hot").to_csv()))} == {"hot"}


def test_a_missing_tail_is_explained() -> None:
    (p99,) = missing(record().groups[0].rows)
    assert "p99 needs 662 calls, the fewest here are 100" in p99


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1234.6, "1235"), (20.04, "20.0"), (3.0, "3.00"), (0.0123, "0.0123")]
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plots": [Path("a.svg")], "labelled": True}, "ends in .png or .html"),
        ({"plots": [Path("a.png")], "labelled": False}, "add --data"),
        ({"plots": [], "labelled": False, "json_path": "-", "csv_path": "-"}, "cannot share stdout"),
    ],
)
def test_outputs_are_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_outputs(**{"json_path": None, "csv_path": None, **options})


@pytest.mark.parametrize("accuracy", [0.65, None], ids=["accuracy", "agreement"])
def test_plots(tmp_path: Path, accuracy: float | None) -> None:
    draw(tmp_path / "a.html", record("<hot>", accuracy=accuracy))
    page = (tmp_path / "a.html").read_text()
    assert "&lt;hot&gt;" in page
    picture = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    circles = [(float(c.get("cx", 0)), float(c.get("cy", 0)), float(c.get("r", 0))) for c in picture.iter("circle")]
    assert len(circles) == 3
    # Slower is further right, less accurate further down, a smaller file a smaller circle.
    eager, fp32, int8 = circles
    assert eager[0] > fp32[0] > int8[0]
    assert eager[2] > fp32[2] > int8[2]
    assert (int8[1] > fp32[1]) == (accuracy is not None)
    assert int8[2] ** 2 / eager[2] ** 2 == pytest.approx(1.6 / 5.0, rel=0.02)
    draw(tmp_path / "a.png", record(accuracy=accuracy))
    image = cv2.imread(str(tmp_path / "a.png"))
    # The colours of two runtimes, half transparent on white.
    for blue, green, red in ((219, 192, 140), (140, 194, 236)):
        assert (np.abs(image.astype(int) - (blue, green, red)).sum(axis=2) < 12).sum() > 500


def test_labels_of_a_plot_do_not_cover_each_other(tmp_path: Path) -> None:
    crowd = tuple(row(f"onnxruntime fp{n}", "onnxruntime", 4.0, 0.65, 4.9) for n in range(6))
    full = record()
    draw(tmp_path / "a.html", replace(full, groups=(replace(full.groups[0], rows=crowd),)))
    page = (tmp_path / "a.html").read_text()
    picture = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    places = [(t.get("x"), t.get("y")) for t in picture.iter("text") if t.get("class") == "name"]
    assert len(set(places)) == 6


def test_lines_to_labels_run_through_no_other_label() -> None:
    # As poster-nano's candidates lie: six of them within half as much again, some on top of each other.
    rows = [
        row("onnxruntime fp32", "onnxruntime", 2.7, 0.669, 4.9),
        row("onnxruntime fp16", "onnxruntime", 3.0, 0.6693, 2.5),
        row("onnxruntime int8", "onnxruntime", 3.61, 0.6673, 1.8),
        row("openvino fp32", "openvino", 3.71, 0.669, 4.9),
        row("openvino fp16", "openvino", 3.73, 0.669, 2.5),
        row("openvino int8", "openvino", 3.71, 0.6665, 1.5),
    ]
    plot = _scatter(rows, noisy=False)
    assert plot is not None
    assert any(p.leader for p in plot.points), "there is no room for all beside their circles"
    for point in plot.points:
        for other in (p for p in plot.points if p is not point and point.leader):
            left, base = other.label_at
            box = (left, base - 11, left + 7.4 * len(other.label), base + 3)
            assert not _crosses((point.x, point.y, *point.leader), box), f"{point.label} through {other.label}"


def test_energy_has_a_table_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    plain = record()
    energy = {
        "total": "VDD_IN (INA3221)",
        "gross_joules_per_face": 0.0312,
        "net_joules_per_face": 0.0204,
        "notes": ("short",),
    }
    group = plain.groups[0]
    measured = replace(plain, groups=(replace(group, rows=tuple(replace(r, energy=energy) for r in group.rows)),))
    deliver(measured, json_path=None, csv_path=None, plots=())
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("J per face, VDD_IN (INA3221)", "0.0312", "0.0204", "short"))
    rows = list(csv.DictReader(io.StringIO(measured.to_csv())))
    assert {(r["gross_joules_per_face"], r["energy_rails"]) for r in rows} == {("0.0312", "VDD_IN (INA3221)")}
    assert {r["energy_rails"] for r in csv.DictReader(io.StringIO(plain.to_csv()))} == {""}
    assert json.loads(measured.to_json())["groups"][0]["rows"][0]["energy"]["net_joules_per_face"] == 0.0204


def test_energy_of_candidates_on_a_jetsons_rails(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sysfs tree of an Orin Nano that draws 6 W whatever happens."""
    from click.testing import CliRunner

    from poster_edge.bench import energy_bench, energy_meters
    from poster_edge.cli.bench import command

    folder = tmp_path / "sys/class/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for name, value in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1200}.items():
        (folder / name).write_text(f"{value}\n")
    find = energy_meters.find_rails
    monkeypatch.setattr(energy_meters, "find_rails", lambda **asked: find(tmp_path, **asked))
    monkeypatch.setattr(energy_bench.Energy.__init__, "__kwdefaults__", {"rest_s": 0.1, "work_s": 0.3})
    asked = ["--model", str(tiny_bundle), "--runtime", "onnxruntime", "--batch", "2", "--duration", "0.2"]
    done = CliRunner().invoke(command, [*asked, "--energy", "--allow-noisy", "--json", "-"])
    assert done.exit_code == 0, done.output
    (found,) = [r["energy"] for r in json.loads(done.stdout)["groups"][0]["rows"]]
    assert found["faces"] % 2 == 0
    assert found["gross_joules_per_face"] == pytest.approx(6 * found["seconds"] / found["faces"], rel=0.05)
    assert found["net_joules_per_face"] == pytest.approx(0, abs=1e-6)
