"""Loading TensorRT in either flavour, the GPU's identity and the names of plans."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export import gpu as gpus
from poster_edge.export.engine_key import EngineKey, engine_key
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.gpu import Gpu, find_gpu, visible_gpus
from poster_edge.export.tensorrt_api import RTX, TENSORRT, TensorRt, load

ORIN = Gpu(0, "Orin", "8.7", "12.6", "540.4.0")


@pytest.fixture
def fresh() -> Iterator[None]:
    """``load`` forgets what it loaded, before and after."""
    load.cache_clear()
    yield
    load.cache_clear()
    sys.modules.pop("tensorrt", None)


def install(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))


def test_loads_once_with_one_logger(rtx: TensorRt) -> None:
    assert load(RTX) is rtx
    assert rtx.builder().logger is rtx.logger
    assert rtx.compute_capabilities[:2] == ("7.5", "8.0")
    assert (
        rtx.builder()
        .create_network(rtx.network_flags)
        .get_flag(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )


def test_the_log_keeps_what_went_wrong(rtx: TensorRt) -> None:
    heard: list[tuple[str, str]] = []
    rtx.log.clear()
    rtx.log.forward = lambda severity, text: heard.append((severity, text))
    try:
        assert rtx.runtime().deserialize_cuda_engine(b"not a plan" * 20) is None
    finally:
        rtx.log.forward = None
    assert rtx.log.errors
    assert ("ERROR", rtx.log.errors[0]) in heard
    rtx.builder()
    assert rtx.log.errors == []


def test_compute_capabilities_are_checked(rtx: TensorRt) -> None:
    config = rtx.builder().create_builder_config()
    rtx.set_compute_capabilities(config, ["8.6", "8.6", "current"])
    assert config.num_compute_capabilities == 2  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="cannot build for compute capability 9.0; it knows 7.5, 8.0"):
        rtx.set_compute_capabilities(config, ["9.0"])
    with pytest.raises(UsageError, match="go with tensorrt-rtx"):
        replace(rtx, flavour=TENSORRT).set_compute_capabilities(config, ["8.6"])


def test_missing_says_what_to_install(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poster_edge.export.tensorrt_api.available", lambda name: False)
    with pytest.raises(UnavailableError, match=r"tensorrt is not installed: .*pip install 'poster-edge\[tensorrt\]'"):
        load(TENSORRT)
    with pytest.raises(UnavailableError, match=r"pip install 'poster-edge\[tensorrt-rtx\]'.*--no-deps"):
        load(RTX)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("__version__ = '8.6.2.3'", r"8\.6\.2\.3 is too old: .*TensorRT 10\.3 \(JetPack 6\)"),
        ("__version__ = '10.2.0'", r"10\.2\.0 is too old"),
        ("raise OSError('libnvinfer.so.10: cannot open')", r"cannot be loaded \(libnvinfer.so.10"),
    ],
    ids=["jetpack-5", "10.2", "broken"],
)
def test_unfit_tensorrt_is_refused(
    source: str, expected: str, fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, source, monkeypatch)
    with pytest.raises(UnavailableError, match=expected):
        load(TENSORRT)


def test_no_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_LIBRARY", "libcuda-that-is-not-here.so")
    assert visible_gpus() == ()
    assert find_gpu() is None


def test_a_gpu_says_who_it_is() -> None:
    for gpu in visible_gpus():
        assert gpu.name
        assert float(gpu.compute_capability) >= 5
        assert int(gpu.cuda.split(".")[0]) >= 11


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("580.65.06\n", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Kernel Module  570.124.04  Tue", "570.124.04"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "R36 (release), REVISION: 4.3"),
    ],
)
def test_driver_versions(text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(gpus, "_VERSION_FILES", (tmp_path / "absent", tmp_path / "version"))
    assert gpus._driver_version() == version


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 8), (1, 9, 8)])
def test_profiles_do_not_fall(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"min \d, opt \d, max \d"):
        Profile(*sizes)


def test_wrong_specs_are_refused() -> None:
    with pytest.raises(UsageError, match="'cuda' is neither"):
        EngineSpec("cuda")
    with pytest.raises(UsageError, match="0 MiB"):
        EngineSpec(RTX, workspace_mib=0)
    with pytest.raises(UsageError, match="capability 'sm86'"):
        EngineSpec(RTX, compute_capabilities=("sm86",))


def test_any_difference_makes_another_key(rtx: TensorRt) -> None:
    spec = EngineSpec(RTX, compute_capabilities=("8.6",))

    def key(spec: EngineSpec = spec, gpu: Gpu | None = ORIN, onnx: str = "0" * 64, calibration: str = "") -> EngineKey:
        return engine_key(rtx, spec, gpu=gpu, onnx_sha256=onnx, calibration=calibration)

    others = [
        key(gpu=None),
        *(key(gpu=replace(ORIN, **{f: "9.9"})) for f in ("name", "compute_capability", "cuda", "driver")),  # type: ignore[arg-type]
        key(onnx="1" * 64),
        key(calibration="2" * 64),
        key(replace(spec, profile=Profile(1, 2, 8))),
        key(replace(spec, workspace_mib=512)),
        key(replace(spec, detailed=False)),
        key(replace(spec, compute_capabilities=("8.6", "8.9"))),
        replace(key(), tensorrt="1.7.2"),
        replace(key(), flavour=TENSORRT),
    ]
    digests = {k.digest for k in [key(), *others]}
    assert len(digests) == 1 + len(others)
    assert all(len(d) == 32 for d in digests)


def test_the_same_plan_has_the_same_key(rtx: TensorRt) -> None:
    def key(*capabilities: str, cache: Path | None = None) -> str:
        spec = EngineSpec(RTX, compute_capabilities=capabilities, timing_cache=cache)
        return engine_key(rtx, spec, gpu=ORIN, onnx_sha256="0" * 64).digest

    assert key("8.9", "8.6") == key("8.6", "8.9")
    assert key("current") == key("8.7")
    assert key("8.6") == key("8.6", cache=Path("timing.cache"))
