"""``--runtime`` and ``--precision`` of the commands: what was asked for runs and is named, or it is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

import poster_edge as package
from poster_edge.config import DEFAULT_MODEL
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.tensorrt_api import installed

Command = Callable[..., CompletedProcess[str]]
ROOT = Path(package.__file__).parents[1]
SAMPLE = Path(package.__file__).parent / "zoo" / "samples" / "astronaut.jpg"
no_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has a GPU")
PHOTO = ("run", "--source", str(SAMPLE), "--detector", "haar")


def probabilities(done: CompletedProcess[str]) -> list[float]:
    """Of the one face of one JSON line, which must be all that stands on stdout."""
    assert done.returncode == 0, done.stderr
    (face,) = json.loads(done.stdout)["faces"]
    return list(face["probabilities"].values())


def test_run_gives_the_same_answer_and_names_what_ran(poster_edge: Command) -> None:
    openvino = poster_edge(*PHOTO, "--jsonl", "-", "--runtime", "openvino", "--threads", "1")
    onnxruntime = poster_edge(*PHOTO, "--jsonl", "-", "--runtime", "onnxruntime", "--precision", "fp32")
    np.testing.assert_allclose(probabilities(openvino), probabilities(onnxruntime), atol=1e-4)
    assert f"haar + {DEFAULT_MODEL} fp32 on OpenVINO 20" in openvino.stderr
    assert "(CPU, f32)" in openvino.stderr
    assert f"haar + {DEFAULT_MODEL} fp32 on onnxruntime" in onnxruntime.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--runtime", "openvino", "--device", "cuda:0"], 4, "OpenVINO runs on the CPU"),
        (["--runtime", "openvino", "--device", "tpu"], 2, "expected auto, cpu or cuda:N"),
        (["--runtime", "openvino", "--precision", "int8"], 4, "no int8 model, it has fp32"),
        (["--runtime", "tensorflow"], 2, "'auto', 'onnxruntime', 'openvino'"),
        pytest.param(["--runtime", "tensorrt"], 4, "the driver", marks=no_gpu),
        pytest.param(["--runtime", "tensorrt-rtx"], 4, "use --runtime onnxruntime or openvino", marks=no_gpu),
        pytest.param(["--runtime", "tensorrt-rtx", "--device", "cuda:1"], 4, "no NVIDIA GPU can be used", marks=no_gpu),
        (["--runtime", "tensorrt-rtx", "--device", "cpu"], 4, "runs on NVIDIA GPUs only"),
        (["--runtime", "tensorrt", "--device", "tpu"], 2, "expected auto or cuda:N"),
        (["--precision", "int4"], 2, "'auto', 'fp32', 'fp16', 'int8', 'bf16'"),
        (["--precision", "bf16"], 2, "--precision bf16 is for --runtime torch, not auto"),
        (["--runtime", "openvino", "--kernels", "sdpa"], 2, "--kernels sdpa is for --runtime torch, not openvino"),
        (["--cuda-graph"], 2, "--cuda-graph is for --runtime torch"),
        (["--runtime", "onnxruntime", "--compile"], 2, "--compile is for --runtime torch, not onnxruntime"),
        (["--runtime", "torch"], 4, "has no model.safetensors"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
@pytest.mark.parametrize("command", ["run", "eval"])
def test_what_cannot_be_served_is_one_line(
    poster_edge: Command, tiny_bundle: Path, tmp_path: Path, command: str, options: list[str], code: int, words: str
) -> None:
    np.savez(tmp_path / "faces.npz", images=np.zeros((2, 48, 48), np.uint8), labels=[0, 1], classes=["sad", "happy"])
    given = PHOTO if command == "run" else ("eval", "--data", str(tmp_path / "faces.npz"))
    done = poster_edge(*given, "--model", str(tiny_bundle), *options)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error")]) == 1
    assert done.stdout == ""


def test_torch_runs_the_fused_kernels_that_were_asked_for(
    poster_edge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's own kernels, in its interpreter, behind the same command that a GPU's user gives."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fused = poster_edge(*PHOTO, "--jsonl", "-", "--runtime", "torch", "--kernels", "triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    reference = poster_edge(*PHOTO, "--jsonl", "-", "--runtime", "onnxruntime", "--precision", "fp32")
    np.testing.assert_allclose(probabilities(fused), probabilities(reference), atol=1e-4)
    assert f"{DEFAULT_MODEL} fp32 on torch 2." in fused.stderr
    assert "(CPU, fp32, kernels triton, interpreted)" in fused.stderr


def test_eval_reports_what_ran(poster_edge: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 48, 48), np.uint8)
    np.savez(tmp_path / "faces.npz", images=images, labels=np.arange(20) % 2, classes=["sad", "happy"])
    reports = []
    for runtime in ("openvino", "onnxruntime"):
        done = poster_edge(
            "eval",
            "--model",
            str(tiny_bundle),
            "--data",
            "faces.npz",
            "--runtime",
            runtime,
            "--json",
            "-",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert reports[0]["runtime"].startswith("OpenVINO 20")
    assert reports[1]["runtime"].startswith("onnxruntime ")
    assert reports[0]["confusion"] == reports[1]["confusion"]


@pytest.mark.parametrize(
    ("runtime", "absent"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime"), ("auto", "onnxruntime")]
)
def test_only_the_runtime_that_runs_is_imported(tiny_bundle: Path, runtime: str, absent: str) -> None:
    words = ["poster-edge", *PHOTO, "--model", str(tiny_bundle), "--runtime", runtime, "--device", "cpu"]
    program = f"""
import sys
sys.argv = {words!r}
from poster_edge.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print({absent!r} in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", ["run", "eval"])
def test_help_imports_no_runtime(command: str) -> None:
    program = f"""
import sys
sys.argv = ["poster-edge", {command!r}, "--help"]
from poster_edge.cli.main import main
try:
    main()
except SystemExit:
    print([m for m in ("numpy", "cv2", "onnxruntime", "openvino") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "[auto|onnxruntime|openvino|tensorrt|tensorrt-rtx|torch]" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_broken_openvino_is_one_line_and_the_run_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open')\n")
    done = subprocess.run(
        [sys.executable, "-m", "poster_edge", *PHOTO, "--model", str(tiny_bundle)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    assert "1 face" in done.stdout
    assert done.stderr.count("libtbb.so.12") == 1
    assert "on onnxruntime " in done.stderr


def test_doctor_reports_openvino(poster_edge: Command) -> None:
    checks = {c["name"]: c for c in json.loads(poster_edge("doctor", "--json").stdout)}
    assert checks["openvino"]["state"] == "ok"
    assert checks["openvino"]["found"].startswith("20")
    assert "CPU" in checks["openvino"]["found"]


@no_gpu
def test_doctor_reports_what_a_gpu_needs(poster_edge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("POSTER_EDGE_CUDA", "auto")
    checks = {c["name"]: c for c in json.loads(poster_edge("doctor", "--json").stdout)}
    assert checks["NVIDIA GPU"]["state"] == "absent"
    assert "driver" in checks["NVIDIA GPU"]["found"]
    assert checks["CUDA for Python"]["found"].startswith("cuda-python is used")
    assert checks["tensorrt"]["state"] == ("ok" if installed("tensorrt") else "absent")
    rtx = checks["tensorrt-rtx"]
    if installed("tensorrt-rtx"):
        assert rtx["found"].endswith("builds engines; no GPU here to run them")
    else:
        assert rtx["remedy"] == "pip install 'poster-edge[tensorrt-rtx]'"
    assert checks["engine cache"]["found"] == f"{tmp_path}/engines: empty"
    assert not (tmp_path / "engines").exists()
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    monkeypatch.setenv("POSTER_EDGE_CUDA", "cupy")
    checks = {c["name"]: c for c in json.loads(poster_edge("doctor", "--json").stdout)}
    assert "others can write to it" in checks["engine cache"]["found"]
    assert "'cupy'" in checks["CUDA for Python"]["found"]
