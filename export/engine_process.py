"""Builds an engine in a process of its own, so that a fault in TensorRT is one line and not the end of the program.

Parser and builder are closed libraries that read a file which may come from anywhere, and a broken file can make
them end their process.  A child also gives all its memory back, on the GPU too, and may be ended at any moment.
It is told what to build on its standard input, answers on its standard output in lines of JSON, the plan's bytes
last, and ends when the parent does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

from poster_edge.errors import InputError, PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.engine import BuiltEngine, Progress, build_engine, check_model
from poster_edge.export.engine_network import ComputeLayer, NetworkSummary
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import TensorRt, load, parser_library
from poster_edge.kernels.plugin.names import NAMESPACE

_ERRORS: dict[str, type[PosterEdgeError]] = {
    kind.__name__: kind for kind in (InputError, UnavailableError, UsageError, PosterEdgeError)
}
_VISIBLE, _LIBRARIES = "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"
#: The child's program; the parent's search path comes first, so that a bare checkout works.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from poster_edge.export import engine_process
engine_process.serve()
"""


def build_apart(
    tensorrt: TensorRt, onnx: bytes, spec: EngineSpec, *, progress: Progress | None = None, gpu: int = 0
) -> BuiltEngine:
    """Do what :func:`poster_edge.export.engine.build_engine` does, in a process of its own.

    Args:
        tensorrt: which TensorRT.
        onnx: content of an ONNX file, its weights inside.
        spec: how to build.
        progress: is told how far the build is.
        gpu: index of the GPU to build on, where there is one.

    Raises:
        InputError: no ONNX graph, or one whose shapes do not go with the profile.
        UnavailableError: TensorRT cannot start, read an operator or build, or it ended its process.
        KeyboardInterrupt: the build was stopped.
    """
    check_model(onnx)
    with tempfile.TemporaryFile() as said, _search_path(spec) as libraries:
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**_environment(os.environ, gpu), **libraries},
        )
        with child:
            try:
                answer = _talk(child, _request(tensorrt, onnx, spec), onnx, progress)
            except UnavailableError as error:
                # The builder says only that the plugin refused; why, it says itself.
                raise UnavailableError("; ".join([str(error), *_plugin_said(said)])) from error
            finally:
                # Ctrl-C, or an answer that nobody waits for any more.
                child.kill()
        if isinstance(answer, dict):
            return _built(answer, spec)
        raise UnavailableError(f"{tensorrt.title} {_end(answer, said)}; nothing was built")


def _environment(ours: Mapping[str, str], gpu: int) -> dict[str, str]:
    """The child's environment: the one GPU it builds on is its first."""
    shown = [d for d in ours.get(_VISIBLE, "").split(",") if d]
    if gpu == 0 and not shown:
        return dict(ours)
    return {**ours, _VISIBLE: shown[gpu] if gpu < len(shown) else str(gpu)}


@contextmanager
def _search_path(spec: EngineSpec) -> Iterator[dict[str, str]]:
    """What the child's environment needs besides, so that a parser finds what it opens for a plugin."""
    sought = parser_library(spec.flavour) if spec.plugin else None
    if sought is None:
        yield {}
        return
    name, library = sought
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).symlink_to(library)
        yield {_LIBRARIES: os.pathsep.join([folder, *filter(None, [os.environ.get(_LIBRARIES)])])}


def _request(tensorrt: TensorRt, onnx: bytes, spec: EngineSpec) -> bytes:
    order = {"flavour": tensorrt.flavour, "spec": asdict(spec), "bytes": len(onnx)}
    # Paths as text.
    return json.dumps(order, default=str).encode() + b"\n"


def _talk(
    child: subprocess.Popen[bytes], request: bytes, onnx: bytes, progress: Progress | None
) -> dict[str, Any] | int:
    """What the child built, its plan under "plan"; or, where it ended without an answer, its exit status."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(request)
        child.stdin.write(onnx)
        child.stdin.flush()
    except OSError:
        # It is gone already, and its status tells why.
        with suppress(OSError):
            child.stdin.close()
        return child.wait()
    for line in child.stdout:
        message = json.loads(line)
        if "progress" in message and progress is not None:
            progress(*message["progress"])
        if "error" in message:
            raise _ERRORS.get(message["error"], PosterEdgeError)(message["text"])
        if "bytes" in message:
            message["plan"] = child.stdout.read(message["bytes"])
            return message if len(message["plan"]) == message["bytes"] else child.wait()
    return child.wait()


def _built(answer: dict[str, Any], spec: EngineSpec) -> BuiltEngine:
    network = answer["network"]
    return BuiltEngine(
        plan=answer["plan"],
        spec=spec,
        tensorrt=answer["tensorrt"],
        seconds=answer["seconds"],
        peak_rss_mb=answer["peak_rss_mb"],
        warnings=tuple(answer["warnings"]),
        network=NetworkSummary(
            tuple(ComputeLayer(**layer) for layer in network["compute"]),
            network["others"],
            network["softmaxes"],
            tuple(network["plugins"]),
        ),
    )


def _plugin_said(said: IO[bytes]) -> list[str]:
    """What a plugin of ours wrote to the child's standard error, each line once."""
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    return list(dict.fromkeys(line for line in lines if line.startswith(f"{NAMESPACE}::")))


def _end(status: int, said: IO[bytes]) -> str:
    """How the child ended, with the last thing it said, in one line."""
    said.seek(0)
    lines = [" ".join(line.split()) for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    last = f" ({lines[-1][:200]})" if lines else ""
    if -status == signal.SIGKILL:
        return f"was killed while it built this model: most likely for want of memory{last}"
    if status < 0:
        return f"broke down over this model (signal {-status}, {signal.strsignal(-status)}){last}"
    return f"ended over this model with exit code {status}{last}"


def serve() -> NoReturn:
    """The child: build what standard input asks for."""
    # The terminal's Ctrl-C reaches both; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = sys.stdin.buffer
    order = json.loads(source.readline())
    onnx = source.read(order["bytes"])
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    lock = threading.Lock()

    def answer(message: dict[str, Any], data: bytes = b"") -> None:
        with lock:
            answers.write(json.dumps(message).encode() + b"\n" + data)
            answers.flush()

    try:
        engine = build_engine(
            load(order["flavour"]), onnx, _spec(order["spec"]), progress=lambda *how: answer({"progress": how})
        )
    except PosterEdgeError as error:
        kind = next(k for k, v in _ERRORS.items() if isinstance(error, v))
        answer({"error": kind, "text": str(error)})
    else:
        facts = {n: getattr(engine, n) for n in ("tensorrt", "seconds", "peak_rss_mb", "warnings")}
        answer({**facts, "network": asdict(engine.network), "bytes": len(engine.plan)}, engine.plan)
    # Without the destructors of libraries, which have nothing left to do.
    os._exit(0)


def _spec(given: dict[str, Any]) -> EngineSpec:
    plugin = given["plugin"]
    made = {
        "profile": Profile(**given["profile"]),
        "compute_capabilities": tuple(given["compute_capabilities"]),
        "timing_cache": given["timing_cache"] and Path(given["timing_cache"]),
        "plugin": plugin and PluginLibrary(**{**plugin, "path": Path(plugin["path"])}),
    }
    return EngineSpec(**{**given, **made})


def _end_with_parent(source: IO[bytes]) -> None:
    """The parent never writes more: the end of the file is its own end."""
    source.read()
    os._exit(1)
