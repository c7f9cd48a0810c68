"""``export --format tensorrt|tensorrt-rtx`` and ``inspect``: engines built, verified, recorded, shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from poster_edge.export.gpu import find_gpu
from poster_edge.export.tensorrt_api import TENSORRT, TensorRt, installed
from poster_edge.runtime.bundle import load_bundle, write_bundle
from poster_edge.runtime.engine_cache import EngineCache
from poster_edge.runtime.engine_record import EngineRecord, parse_engines
from poster_edge.runtime.manifest import BundleError, read_manifest

Command = Callable[..., CompletedProcess[str]]
RTX_86 = ("--format", "tensorrt-rtx", "--compute-capability", "8.6")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of engines of its own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTER_EDGE_CACHE", str(folder))
        yield folder / "engines"


@pytest.fixture(scope="module")
def exported(poster_edge: Command, tiny_bundle: Path, rtx: TensorRt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an engine in it."""
    folder = tmp_path_factory.mktemp("engine") / "b"
    options = ("--compute-capability", "8.9", "--max-batch", "4", "--workspace", "64")
    done = poster_edge("export", "--model", str(tiny_bundle), *RTX_86, *options, "-o", str(folder))
    assert done.returncode == 0, done.stderr
    assert "matrix products: 1 fp32" in done.stderr
    return folder


def test_the_engine_is_recorded(exported: Path, tiny_bundle: Path, rtx: TensorRt) -> None:
    bundle = load_bundle(exported)
    bundle.verify()
    (name, record), *others = bundle.manifest.engines.items()
    assert not others
    assert name in bundle.manifest.artefacts
    assert len(bundle.read(name)) > 1000
    assert (record.flavour, record.tensorrt) == ("tensorrt-rtx", rtx.version)
    assert record.compute_capabilities == ("8.6", "8.9")
    assert (record.precision, record.model, record.profile) == ("fp32", "model.onnx", (1, 1, 4))
    assert record.flags == ("strongly-typed", "detailed", "workspace=64MiB")
    assert record.onnx_sha256 == load_bundle(tiny_bundle).manifest.artefacts["model.onnx"].sha256
    assert record.report["source"] == "parsed" or find_gpu()
    assert list(record.report["layers"]) == ["matrix product"]


def test_this_machine_knows_what_it_built(exported: Path, cache: Path) -> None:
    bundle = load_bundle(exported)
    ((name, record),) = bundle.manifest.engines.items()
    known = EngineCache(cache).ledger(bundle.manifest.artefacts[name].sha256)
    assert known is not None
    assert known.fields["onnx_sha256"] == record.onnx_sha256
    assert known.fields["compute_capabilities"] == "8.6, 8.9"


def test_a_cache_that_is_refused_does_not_stop_the_export(
    poster_edge: Command, tiny_bundle: Path, rtx: TensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path))
    done = poster_edge("export", "--model", str(tiny_bundle), *RTX_86, "-o", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert "others can write to it" in done.stderr
    assert "only with --trust-engine" in done.stderr


def test_a_second_engine_joins_the_first(poster_edge: Command, exported: Path, tmp_path: Path) -> None:
    """Another profile is another engine; the same again is the same."""
    folder = tmp_path / "b"
    shutil.copytree(exported, folder)
    for _ in range(2):
        done = poster_edge("export", "--model", str(folder), *RTX_86, "-o", str(folder), "--force")
        assert done.returncode == 0, done.stderr
    bundle = load_bundle(folder)
    bundle.verify()
    assert sorted(r.profile for r in bundle.manifest.engines.values()) == [(1, 1, 4), (1, 1, 8)]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--format", "tensorrt-rtx", "--min-batch", "4", "--opt-batch", "2"), 2, "min 4, opt 2, max 8"),
        (("--format", "tensorrt", "--compute-capability", "8.6"), 2, "builds for the GPU it runs on"),
        (("--format", "tensorrt-rtx", "--precision", "auto"), 2, "--precision fp32, fp16 or int8"),
        (("--format", "tensorrt-rtx", "--int8", "--target", "openvino"), 2, "--target all or tensorrt"),
        (("--format", "tensorrt-rtx", "--compute-capability", "9.0"), 2, "'9.0' is not one of"),
        (("--opt-batch", "2"), 2, "--format tensorrt or tensorrt-rtx is what goes with --opt-batch"),
        (("--max-batch", "2"), 2, "is what goes with --max-batch"),
        (("--format", "tensorrt-rtx", "--ensemble"), 2, "--format triton is what goes with --ensemble"),
    ],
)
def test_wrong_usage(poster_edge: Command, tmp_path: Path, options: tuple[str, ...], code: int, said: str) -> None:
    done = poster_edge("export", *options, "-o", "x", cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_without_tensorrt(poster_edge: Command, tmp_path: Path) -> None:
    if installed(TENSORRT):
        pytest.skip("TensorRT is installed here")
    done = poster_edge("export", "--format", "tensorrt", "-o", "x", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "pip install 'poster-edge[tensorrt]'" in done.stderr


def test_without_a_gpu_the_target_must_be_named(poster_edge: Command, rtx: TensorRt, tmp_path: Path) -> None:
    if find_gpu():
        pytest.skip("a GPU is here")
    for options in ((), ("--compute-capability", "current")):
        done = poster_edge("export", "--format", "tensorrt-rtx", *options, "-o", "x", cwd=tmp_path)
        assert done.returncode == 4
        assert "--compute-capability 8.6" in done.stderr


def test_int8_by_name_only_is_refused(poster_edge: Command, tiny_bundle: Path, rtx: TensorRt, tmp_path: Path) -> None:
    """A float graph under the name of the INT8 one: exit 4 with its layers, and nothing is written."""
    manifest, graph = load_bundle(tiny_bundle).manifest, tiny_bundle / "model.onnx"
    files = {"model.onnx": graph, "model.int8-inputs.onnx": graph}
    write_bundle(tmp_path / "liar", replace(manifest, precision="int8"), files)
    done = poster_edge("export", "--model", "liar", *RTX_86, "-o", "x", cwd=tmp_path)
    assert done.returncode == 4
    assert "int8 was asked for, but 1 layers compute in FP32" in done.stderr
    assert not (tmp_path / "x").exists()
    done = poster_edge("export", "--model", "liar", "--precision", "fp32", *RTX_86, "-o", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_fp32_for_turing_is_explained(poster_edge: Command, rtx: TensorRt, tmp_path: Path) -> None:
    turing = ("--format", "tensorrt-rtx", "--compute-capability", "7.5")
    done = poster_edge("export", "--model", "poster-nano", *turing, "-o", "x", cwd=tmp_path)
    assert done.returncode == 4
    assert "no FP32 matrix products for compute capability 7.5: use --half or --int8" in done.stderr
    assert not (tmp_path / "x").exists()


def test_inspect_shows_the_engine(poster_edge: Command, exported: Path) -> None:
    done = poster_edge("inspect", str(exported), "--layers")
    assert done.returncode == 0, done.stderr
    for text in ("Layers by precision", "1 fp32", "8.6, 8.9", "1/1/4", "matrix product", "model.onnx", ".plan"):
        assert text in done.stdout
    found = json.loads(poster_edge("inspect", str(exported), "--json").stdout)
    manifest = load_bundle(exported).manifest
    assert found["engines"] == json.loads(json.dumps({n: asdict(e) for n, e in manifest.engines.items()}))
    assert {f["name"]: f["sha256"] for f in found["files"]} == {n: a.sha256 for n, a in manifest.artefacts.items()}


def test_inspect_a_packaged_model(poster_edge: Command) -> None:
    found = json.loads(poster_edge("inspect", "poster-nano", "--json").stdout)
    model = found["models"]["model.onnx"]
    assert {kind: {p: len(n) for p, n in by.items()} for kind, by in model["layers"].items()} == {
        "convolution": {"fp32": 43},
        "matrix product": {"fp32": 76},
        "deconvolution": {"fp32": 4},
    }
    size = next(f["bytes"] for f in found["files"] if f["name"] == "model.onnx")
    assert 0.9 * size < model["weights_bytes"]["fp32"] < size
    assert found["calibration"]["images"] == 512
    assert poster_edge("inspect", "poster-nano").returncode == 0


def test_inspect_without_onnx_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    from poster_edge import optional
    from poster_edge.cli.inspect import gather

    there = optional.available
    monkeypatch.setattr(optional, "available", lambda name: name != "onnx" and there(name))
    found = gather(load_bundle(tiny_bundle))
    assert found["models"] == {}
    assert [f["state"] for f in found["files"]] == ["ok"]
    assert "pip install 'poster-edge[export]'" in found["notes"][0]


def test_inspect_finds_damage(poster_edge: Command, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(exported, folder)
    plan = next(folder.glob("engines/*.plan"))
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    done = poster_edge("inspect", str(folder))
    assert done.returncode == 4
    assert "damaged" in done.stdout
    assert plan.name in done.stderr
    assert poster_edge("inspect", "nowhere").returncode == 4


def record(**changes: Any) -> dict[str, Any]:
    """A manifest's entry for one engine, as JSON gives it."""
    whole = EngineRecord("tensorrt", "10.3", "Orin", (), "int8", "m", "0" * 64, (1, 1, 8), ("detailed",), 3.5)
    return {**json.loads(json.dumps(asdict(whole))), **changes}


def test_a_record_comes_back() -> None:
    name = "engines/ab.plan"
    parsed = parse_engines({name: record()}, {name, "model.onnx"})[name]
    assert json.loads(json.dumps(asdict(parsed))) == record()


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ([], "must be an object"),
        ({}, "disagree about engines/a.plan"),
        ({"engines/b.plan": record()}, "disagree about engines/a.plan, engines/b.plan"),
        ({"engines/a.plan": {**record(), "more": 1}}, "needs flavour"),
        ({"engines/a.plan": record(flavour="cuda")}, "flavour one of"),
        ({"engines/a.plan": record(onnx_sha256="xyz")}, "64 hexadecimal"),
        ({"engines/a.plan": record(profile=[1, 4, 2])}, "three batch sizes"),
        ({"engines/a.plan": record(profile=[True, 4, 8])}, "three batch sizes"),
        ({"engines/a.plan": record(flags=[1])}, "lists of text"),
        ({"engines/a.plan": record(seconds="long")}, "'seconds' must be a number"),
    ],
)
def test_damaged_records_are_refused(engines: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_engines(engines, {"engines/a.plan", "model.onnx"})


def test_a_damaged_manifest_is_a_bundle_error(exported: Path, tmp_path: Path) -> None:
    values = json.loads((exported / "manifest.json").read_text())
    values["engines"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="disagree about engines/"):
        read_manifest(tmp_path)
