"""What the runners ask for on a CPU that adds INT8 products exactly, and on one that does not."""

from __future__ import annotations

import onnx
import pytest

from poster_edge.calib.ranges import PAIRS_FIT
from poster_edge.runtime import int8_sums, openvino_runner, ort_runner
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.openvino_runner import OpenVinoRunner
from poster_edge.runtime.ort_runner import OrtRunner


def model(*, pairs_fit: bool) -> bytes:
    proto = onnx.ModelProto()
    if pairs_fit:
        onnx.helper.set_model_props(proto, {PAIRS_FIT: "true"})
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("exact", "pairs_fit", "slow"),
    [(True, False, False), (True, True, False), (False, True, False), (False, False, True)],
    ids=["vnni", "vnni-7-bit", "7-bit", "8-bit-without-vnni"],
)
def test_onnxruntimes_slow_sums_only_where_the_fast_ones_saturate(
    monkeypatch: pytest.MonkeyPatch, exact: bool, pairs_fit: bool, slow: bool
) -> None:
    monkeypatch.setattr(ort_runner, "sums_int8_exactly", lambda: exact)
    settings = OrtRunner(load_bundle("poster-nano"), device="cpu")._settings(model(pairs_fit=pairs_fit))
    key = "session.x64quantprecision"
    try:
        found = settings.get_session_config_entry(key)
    except RuntimeError:  # not set
        found = ""
    assert found == ("1" if slow else "")


@pytest.mark.parametrize(
    ("flag", "asked", "hint"), [(False, None, "f32"), (True, None, "f16"), (True, "f32", "f32"), (False, "f16", "f16")]
)
def test_fp16_is_computed_in_f16_where_that_is_fast_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, flag: bool, asked: str | None, hint: str
) -> None:
    monkeypatch.setattr(openvino_runner, "has_flag", lambda part: flag and part == "amx_fp16")
    bundle = load_bundle("poster-nano")
    monkeypatch.setattr(type(bundle), "model_file", lambda *a, **k: "model.onnx")
    assert OpenVinoRunner(bundle, precision="fp16", floats=asked)._settings["INFERENCE_PRECISION_HINT"] == hint


def test_a_cpu_without_a_list_of_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_sums, "Path", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert not int8_sums.has_flag("vnni")
    monkeypatch.setattr(int8_sums.platform, "machine", lambda: "aarch64")
    assert int8_sums.sums_int8_exactly()
