"""Engines built in a process of their own: the same result, and one clear line when TensorRT breaks down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from poster_edge.errors import InputError, UnavailableError
from poster_edge.export import engine_process
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_process import build_apart
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import RTX, TensorRt

SPEC = EngineSpec(RTX, Profile(1, 2, 4), compute_capabilities=("8.6",))
#: The child without the check that refuses what is known to end NVIDIA's parser.
UNCHECKED = engine_process._PROGRAM.replace(
    "engine_process.serve()",
    "from poster_edge.export import engine\nengine.check_model = lambda onnx: None\nengine_process.serve()",
)


def graph(*, op: str = "Relu", side: int | str = 8, outputs: tuple[str, ...] = ("out",)) -> bytes:
    image, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["N", 3, side, side]) for n in ("image", "out"))
    made = helper.make_graph([helper.make_node(op, ["image"], outputs, name="first")], "small", [image], [out])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_it_is_what_a_build_in_this_process_gives(rtx: TensorRt) -> None:
    seen: list[tuple[float, str]] = []
    apart = build_apart(rtx, graph(), SPEC, progress=lambda fraction, phase: seen.append((fraction, phase)))
    here = build_engine(rtx, graph(), SPEC)
    assert apart.network == here.network
    assert (apart.spec, apart.tensorrt, apart.warnings) == (here.spec, here.tensorrt, here.warnings)
    assert apart.plan[:4] == here.plan[:4] == b"vtrt"
    assert len(apart.plan) == pytest.approx(len(here.plan), rel=0.01)
    assert apart.peak_rss_mb > 0
    assert apart.seconds > 0
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (graph(op="Frobnicate"), UnavailableError, "cannot read this model: Frobnicate 'first'"),
        (graph(side="S"), InputError, "only the batch, in front, may be open"),
        (b"no model", InputError, "no ONNX graph"),
        (graph(outputs=()), InputError, "a node in it has no output"),
    ],
    ids=["operator", "shape", "no ONNX", "no output"],
)
def test_refusals_come_through(rtx: TensorRt, model: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        build_apart(rtx, model, SPEC)
    assert type(caught.value) is error


def test_nvidias_parser_that_ends_its_process_is_one_line(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own check taken out of the way on both sides: TensorRT-RTX 1.7 ends over a node without outputs."""
    monkeypatch.setattr(engine_process, "_PROGRAM", UNCHECKED)
    monkeypatch.setattr(engine_process, "check_model", lambda onnx: None)
    with pytest.raises(UnavailableError, match="TensorRT-RTX .* broke down over this model .signal 11") as caught:
        build_apart(rtx, graph(outputs=()), SPEC)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, sys; print('gone\\n wrong', file=sys.stderr, flush=True); os.abort()", r"signal 6, .*\(wrong\)"),
        ("import os; os.kill(os.getpid(), 9)", "was killed .* want of memory"),
        ("raise SystemExit(7)", "ended over this model with exit code 7; nothing was built"),
        ("import sys; sys.stdin.buffer.readline(); print('{\"bytes\": 99}', flush=True)", "exit code 0"),
    ],
    ids=["abort", "killed", "exit", "cut answer"],
)
def test_any_other_end_is_one_line(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch, program: str, words: str) -> None:
    monkeypatch.setattr(engine_process, "_PROGRAM", program)
    with pytest.raises(UnavailableError, match=words) as caught:
        build_apart(rtx, graph(), SPEC)
    assert "\n" not in str(caught.value)


def test_what_libraries_print_does_no_harm(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = engine_process._PROGRAM.replace(
        "engine_process.serve()",
        "build = engine_process.build_engine\n"
        "def loud(*args, **options):\n    print('noise', flush=True)\n    return build(*args, **options)\n"
        "engine_process.build_engine = loud\nengine_process.serve()",
    )
    monkeypatch.setattr(engine_process, "_PROGRAM", noisy)
    assert build_apart(rtx, graph(), SPEC).plan


def test_ctrl_c_ends_the_child(rtx: TensorRt) -> None:
    def stop(fraction: float, phase: str) -> None:
        raise KeyboardInterrupt

    # Other tests of this process may have children of their own, such as multiprocessing's tracker.
    before = children(os.getpid())
    with pytest.raises(KeyboardInterrupt):
        build_apart(rtx, graph(), SPEC, progress=stop)
    assert set(children(os.getpid())) <= set(before)


def test_a_killed_parent_takes_the_child_with_it(rtx: TensorRt, tmp_path: Path) -> None:
    """The child is held up in the middle of its build; it must not stay behind."""
    (tmp_path / "model.onnx").write_bytes(graph())
    program = f"""
import sys
from pathlib import Path
sys.path[:] = {sys.path!r}
from poster_edge.export import engine_process
from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.tensorrt_api import load
engine_process._PROGRAM = engine_process._PROGRAM.replace(
    "engine_process.serve()",
    "import time\\nengine_process.build_engine = lambda *a, **k: (k['progress'](0.5, 'held'), time.sleep(60))\\n"
    "engine_process.serve()",
)
spec = EngineSpec("tensorrt-rtx", compute_capabilities=("8.6",))
onnx = Path({str(tmp_path / "model.onnx")!r}).read_bytes()
engine_process.build_apart(load("tensorrt-rtx"), onnx, spec, progress=lambda *how: print(how, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "(0.5, 'held')\n"
        (child,) = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < until, "the child stayed behind"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes that a process started and that are still there."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for t in tasks.iterdir() for c in (t / "children").read_text().split()]


@pytest.mark.parametrize(
    ("visible", "gpu", "expected"),
    [(None, 0, None), (None, 1, "1"), ("2,3", 0, "2"), ("2,3", 1, "3"), ("GPU-7f", 0, "GPU-7f"), ("", 0, "")],
)
def test_the_child_sees_the_gpu_it_builds_for(visible: str | None, gpu: int, expected: str | None) -> None:
    ours = {"PATH": "/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert engine_process._environment(ours, gpu).get("CUDA_VISIBLE_DEVICES") == expected


def test_the_seed_graph_is_sound() -> None:
    onnx.checker.check_model(onnx.load_from_string(graph()))
