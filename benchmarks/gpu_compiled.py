"""``torch.compile`` in processes of their own: they compile side by side and are timed one at a time.

    python benchmarks/gpu_compiled.py WHAT BATCH MODE [--cpu]

compiles one part in one mode, says so on standard output, and times a call for each line on standard input.
Modes are torch.compile's, and "streams": the backbones are compiled and the fused kernels compute the transformer.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_common import ROOT, explain, stop

#: How a line that is meant for the parent begins; libraries print too.
_MARK = "@@ "


#: Mode in which the fused kernels compute the transformer.
STREAMS = "streams"


class Compiled:
    """The parent's end of one such process."""

    def __init__(self, what: str, batch: int, mode: str, *, cpu: bool, threads: int) -> None:
        self.what, self.batch, self.mode = what, batch, mode
        self.notes: dict[str, Any] = {}
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        command = [sys.executable, str(Path(__file__).resolve()), what, str(batch), mode, *(["--cpu"] if cpu else [])]
        variables = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads), "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                self._lines.put(json.loads(line.removeprefix(_MARK)))
        self._lines.put({"note": "the process has ended"})

    def ready(self, seconds: float) -> dict[str, Any]:
        """Wait until it is compiled: errors by mode ("errors"), or why not ("note")."""
        try:
            self.notes = self._lines.get(timeout=max(seconds, 0.01))
        except queue.Empty:
            self.notes = {"note": "not measured: time"}
        if "errors" not in self.notes:
            self.stop()
        return self.notes

    def sample(self, mode: str, *, cold: bool, seconds: float) -> list[float]:
        """Times in ms of single calls.

        Raises:
            RuntimeError: the process failed or does not answer.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"mode": mode, "cold": cold, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        try:
            answer = self._lines.get(timeout=20)
        except queue.Empty:
            answer = {"note": "no answer in 20 s"}
        if "times" not in answer:
            raise RuntimeError(answer["note"])
        return [float(t) for t in answer["times"]]

    def stop(self) -> None:
        """End the process and those that it started."""
        stop(self._process)


def say(**message: Any) -> None:
    """Tell the parent."""
    print(_MARK + json.dumps(message), flush=True)


def serve(what: str, batch: int, mode: str, device: str) -> None:
    """Compile, then time until standard input ends."""
    import torch
    from gpu_common import exact_float32, relative
    from gpu_kernels import capture
    from gpu_parts import expected, load, part
    from gpu_time import Clock

    from poster_edge.kernels import dispatch
    from poster_edge.models.translated import translate

    exact_float32()
    began = time.monotonic()
    model = load(what.split()[0], device)
    p = part(what, batch, model, device)
    reference = expected(p)
    # Shapes are few: compiled for each.
    options: dict[str, Any] = {} if mode in ("default", STREAMS) else {"mode": mode}
    if mode == STREAMS:
        translate(p.module)
        fast = p.module
    else:
        fast = torch.compile(p.module, dynamic=False, **options)
    runs: dict[str, Callable[[], Any]] = {}
    errors: dict[str, float] = {}
    with torch.no_grad(), dispatch.use("triton" if mode == STREAMS else "sdpa"):

        def call() -> Any:
            return fast(*p.inputs)

        names = {"default": "compile", STREAMS: "fused + compile"}
        name = names.get(mode, f"compile {mode.removesuffix('-no-cudagraphs')}")
        for _ in range(3):
            output = call()
        runs[name], errors[name] = call, relative(output, reference)
        if device == "cuda" and mode != "reduce-overhead":
            replay, output = capture(call)
            output.fill_(torch.nan)
            replay()
            runs[f"{name} + graph"], errors[f"{name} + graph"] = replay, relative(output, reference)
        clock = Clock(device)
        say(errors=errors, seconds=time.monotonic() - began)
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                say(times=clock.sample(runs[asked["mode"]], cold=asked["cold"], seconds=asked["seconds"]))
            except Exception as problem:
                say(note=explain(problem))


def main() -> None:
    """Serve one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what")
    parser.add_argument("batch", type=int)
    parser.add_argument("mode")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    try:
        serve(args.what, args.batch, args.mode, "cpu" if args.cpu else "cuda")
    except Exception as problem:
        say(note=explain(problem))
        raise


if __name__ == "__main__":
    main()
