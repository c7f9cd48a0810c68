"""``poster-edge profile``: stages, layers, targets, the page, and what cannot be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from poster_edge.cli.profile_terminal import flame
from poster_edge.models.registry import REGISTRY
from poster_edge.pipeline.stages import DETAILED_STAGES

Command = Callable[..., "object"]


def test_stages_layers_and_targets(poster_edge: Command, tmp_path: Path) -> None:
    page, record = tmp_path / "page.html", tmp_path / "profile.json"
    done = poster_edge(
        *("profile", "--model", "poster-nano", "--runtime", "onnxruntime", "--threads", "1"),
        *("--frames", "3", "--layers", "--runs", "3"),
        *("--target", "orin-nano", "--target", "rtx4090", "--target-precision", "int8", "--top", "4"),
        *("--json", str(record), "--html", str(page)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert (found["schema"], found["kind"]) == (1, "poster-edge profile")
    stages = found["stages"]
    assert [s["name"] for s in stages["rows"]] == [s for s in DETAILED_STAGES if s != "copy"]
    assert (stages["frames"], stages["faces"]) == (3, 3)
    assert sum(s["share"] for s in stages["rows"]) == pytest.approx(1)
    rows = found["layers"]["rows"]
    assert sum(sum(r["flops"].values()) for r in rows) == REGISTRY["poster-nano"].flops
    assert all(set(r["floor_on_us"]) == {"orin-nano", "rtx4090"} for r in rows)
    assert {r["bound"] for r in rows} <= {"memory", "compute"}
    orin, rtx = found["targets"]
    assert (orin["rests_on_derived_figures"], rtx["rests_on_derived_figures"]) == (False, True)
    bounds = orin["bounds_us"]
    assert bounds["ideal"] <= bounds["fused"] <= bounds["layers"]
    assert found["this_device"]["measured"]
    for text in ("infer", "poster-nano fp32 on onnxruntime", "378 others", "measured ceilings", "661?", "By kind"):
        assert text in done.stdout, text
    assert "Bounds from below" in done.stderr
    check_page(page.read_text())


def check_page(text: str) -> None:
    """Well-formed, without a script, with one mark for each stage and a roofline."""
    head, _, rest = text.partition("<head>")
    body = rest[rest.index("<body>") :].removesuffix("</html>\n").replace("<br>", "<br/>")
    tree = ElementTree.fromstring(body)
    assert head.startswith("<!DOCTYPE html>")
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    svg = [e for e in tree.iter() if e.tag.endswith("svg")]
    assert len(svg) == 4
    stages = [e for e in svg[0].iter() if e.get("class", "").startswith("stage ")]
    assert [e.get("class", "").split()[1] for e in stages] == [s for s in DETAILED_STAGES if s != "copy"]
    assert sum(e.get("class") == "layer" for e in svg[1].iter()) > 50


def test_json_goes_to_stdout_alone(poster_edge: Command, tiny_bundle: Path) -> None:
    done = poster_edge("profile", "--model", str(tiny_bundle), "--detector", "none", "--frames", "2", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["layers"] is None
    assert found["stages"]["faces"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--target-precision", "fp16"), 2, "is for --target"),
        (("--target", "gameboy"), 2, "orin-nano"),
        (("--source", "missing.jpg"), 1, "missing.jpg"),
    ],
)
def test_what_is_refused(poster_edge: Command, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = poster_edge("profile", *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert text in done.stderr


def test_energy_without_a_meter_is_exit_4(poster_edge: Command) -> None:
    from poster_edge.bench.energy_meters import find_rails
    from poster_edge.errors import UnavailableError

    try:
        find_rails()
    except UnavailableError:
        done = poster_edge("profile", "--energy")
        assert done.returncode == 4
        assert "no power meter can be read here" in done.stderr
        return
    done = poster_edge("profile", "--energy", "--idle", "0.5", "--frames", "3", "--json", "-")
    assert json.loads(done.stdout)["energy"]["gross_joules_per_face"] > 0


def test_energy_of_a_jetsons_rails(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sysfs tree of an Orin Nano that draws 6 W whatever happens."""
    from click.testing import CliRunner

    from poster_edge.bench import energy_meters
    from poster_edge.cli.profile import command

    folder = tmp_path / "sys/class/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for name, value in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1200}.items():
        (folder / name).write_text(f"{value}\n")
    find = energy_meters.find_rails
    monkeypatch.setattr(energy_meters, "find_rails", lambda **asked: find(tmp_path, **asked))
    asked = ["--model", str(tiny_bundle), "--detector", "none", "--frames", "30", "--energy", "--idle", "0.5"]
    done = CliRunner().invoke(command, [*asked, "--json", "-"])
    assert done.exit_code == 0, done.output
    energy = json.loads(done.stdout)["energy"]
    assert (energy["faces"], energy["total"]) == (30, "VDD_IN (INA3221)")
    assert energy["rails"][0]["idle_watts"] == pytest.approx(6)
    assert energy["gross_joules_per_face"] == pytest.approx(6 * energy["seconds"] / 30, rel=0.05)
    assert energy["net_joules_per_face"] == pytest.approx(0, abs=1e-6)
    shown = CliRunner().invoke(command, asked)
    assert "J per face gross" in shown.stdout


def test_flame_is_as_wide_as_asked() -> None:
    bar = flame([("detect", 0.5), ("infer", 0.25), ("draw", 0.249), ("post", 0.001)], 40).plain
    assert len(bar) == 40
    assert bar.startswith("|detect▒")
    assert bar[20:].startswith("|infer")
