"""The command line as a whole: fast to start, documented, clear when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from poster_edge.cli.main import COMMANDS

Command = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]


def best_of_five(*command: str) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def test_help_and_import_are_instant() -> None:
    bare = best_of_five("-c", "pass")
    assert best_of_five("-c", "import poster_edge") - bare < 0.3
    assert best_of_five("-m", "poster_edge", "--help") < 0.3 + bare


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import sys, poster_edge; print([m for m in ('torch', 'cv2', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_place_in_the_readme(poster_edge: Command, name: str) -> None:
    done = poster_edge(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")
    assert f"poster-edge {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["frobnicate"], 2, "No such command"),
        (["eval"], 2, "--data"),
        (["eval", "--data", "absent.npz"], 1, "no such data set: absent.npz"),
        (["eval", "--data", "absent.npz", "--model", "absent"], 4, "no model 'absent'"),
        (["eval", "--data", "absent.npz", "--plot", "matrix.jpg"], 2, "ends in .png"),
        (["train", "--data", "absent.npz"], 1, "no such data set"),
        (
            ["convert", "--checkpoint", "absent.pth", "--dataset", "rafdb", "-o", "x.safetensors"],
            1,
            "no such checkpoint",
        ),
        (["convert", "--checkpoint", "absent.pth", "--dataset", "rafdb", "-o", "x.onnx"], 2, ".safetensors"),
        (["convert", "--checkpoint", "absent.pth", "-o", "x.safetensors"], 2, "--dataset: a published checkpoint does"),
        (["convert", "--checkpoint", "x.safetensors", "-o", "y.safetensors"], 2, "--half alone makes another file"),
        (["convert", "--checkpoint", "x.safetensors", "--half", "-o", "y.safetensors"], 1, "no such checkpoint"),
        (["convert", "--checkpoint", "a.pth", "--dataset", "imagenet", "-o", "x.safetensors"], 2, "rafdb"),
        (["export", "--model", "poster", "--checkpoint", "x", "-o", "b"], 2, "not both"),
        (["export", "--model", "poster", "-o", "b"], 4, "--checkpoint"),
        (["export", "--model", "posterr", "-o", "b"], 2, "poster-nano"),
        (["export", "--checkpoint", "absent.safetensors", "-o", "b"], 1, "no such checkpoint"),
        # Told before the model is looked at, which can take long.
        (["export", "--checkpoint", "x.pth", "--int8", "--calib", "nix", "-o", "b"], 1, "nix: no such file or folder"),
        (["run", "--source", "absent.jpg", "--model", "absent"], 1, "absent.jpg: no such file, folder or camera"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_errors_are_one_clear_line(
    poster_edge: Command, args: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done = poster_edge(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_models_lists_everything(poster_edge: Command) -> None:
    rows = json.loads(poster_edge("models", "--json").stdout)
    by_name = {r["name"]: r for r in rows}
    assert by_name["poster-nano"]["packaged"] is True
    assert by_name["poster"]["parameters"] == 71_850_399
    table = poster_edge("models").stdout
    assert all(r["name"] in table for r in rows)


def test_doctor_opens_the_detector(poster_edge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there and is no YuNet would end a run, so it is no "ok"."""
    (tmp_path / "yunet.onnx").write_bytes(b"cut off")
    monkeypatch.setenv("POSTER_EDGE_YUNET", str(tmp_path / "yunet.onnx"))
    done = poster_edge("doctor")
    assert done.returncode == 4
    assert "YuNet face detector (see above)" in done.stderr


def test_doctor_knows_this_environment(poster_edge: Command) -> None:
    done = poster_edge("doctor", "--json")
    assert done.returncode == 0, done.stderr
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert checks["onnxruntime"]["state"] == "ok"
    assert "hashes match" in checks["default model"]["found"]
    assert checks["torch"]["state"] == "ok"
    assert all(c["remedy"] for c in checks.values() if c["state"] != "ok")
    shown = poster_edge("doctor").stdout
    assert "poster-edge doctor" in shown
    assert "[tensorrt]" in shown, "brackets are text, not markup"


def test_output_into_a_closed_pipe_is_quiet() -> None:
    # head is gone before the first of it comes; bash tells how the first of the two ended.
    command = f"{sys.executable} -m poster_edge models --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 141, "the code of SIGPIPE, which shells know"
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_ctrl_c_does(which: signal.Signals, tmp_path: Path) -> None:
    # export works in a folder of the system's temporary ones, which must not stay behind.
    program = (
        "import signal, sys, time; from poster_edge.cli import export, main; from poster_edge.runtime import bundle\n"
        "def wait(*_, **__):\n    print('in', flush=True); time.sleep(60)\n"
        "bundle.write_bundle = wait; sys.argv[1:] = ['export', '--model', 'poster-nano', '--half', '--no-gate']\n"
        "export._lower = lambda draft, *_: draft; main.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        # Under nohup it would be ignored, here and in the command, as it should be there.
        preexec_fn=lambda: signal.signal(which, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    assert list(tmp_path.iterdir()), "the export has begun"
    process.send_signal(which)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"stopped" in err
    assert b"Traceback" not in err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_closed_handles_are_no_trouble_and_no_files(closed: str) -> None:
    # The first files that are opened would get their numbers, and what libraries print would go into these.
    program = (
        "import os, sys; sys.argv[1:] = ['models', '--json']; from poster_edge.cli.main import main, "
        "_fill_closed_handles as fill; fill(); all(os.fstat(n) for n in range(3)); main()"
    )
    command = f'"$0" -c "$1" {closed}'
    done = subprocess.run(["bash", "-c", command, sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
