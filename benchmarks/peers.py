"""Other expression packages beside ours: the same FER2013 validation faces, the same run, one thread each.

    python benchmarks/peers.py --data FILE.npz [--duration 20] [--faces N]

Peers get an environment of their own, which is made at the first run:

    python -m venv peers
    peers/bin/pip install --no-deps fer==25.10.3 facex==1.1.0
    peers/bin/pip install tensorflow==2.21.0 ai-edge-litert==2.3.0 scikit-image 'opencv-python-headless<5'

``--no-deps``, as nothing but their models and their few lines of preparation (repeated in peer_worker.py) is
needed.  The INT8 models of ours are made from the training images first.  OpenCV Zoo's MobileFaceNet is not among
them: no package carries the file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_worker import OURS, PEERS, read, write
from run_all import RESULTS, ROOT

from poster_edge.bench.environment import read_environment
from poster_edge.bench.measure import take_turns
from poster_edge.bench.noise import Watch
from poster_edge.bench.records import table
from poster_edge.bench.statistics import speed_ratio, summarise
from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.faces import load_faces
from poster_edge.data.split import twins_in_training

PACKAGES = ("tensorflow==2.21.0", "ai-edge-litert==2.3.0", "scikit-image", "opencv-python-headless<5")
BARE = ("fer==25.10.3", "facex==1.1.0")
BASELINE = f"{DEFAULT_MODEL} onnxruntime fp32"


class PeerProcess:
    """A peer's process; see peer_worker.py."""

    def __init__(self, name: str, python: str, bundles: Path) -> None:
        self.name = name
        command = [python, str(ROOT / "benchmarks" / "peer_worker.py"), name]
        environment = {**os.environ, "POSTER_EDGE_PEER_BUNDLES": str(bundles), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=-1, stdout=-1, env=environment, cwd=ROOT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self.opened = read(self._from)
        if self.opened is None:
            raise SystemExit(f"{name}: its process ended before it was ready")
        self.pid = self._process.pid

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._process.wait(10)

    def ask(self, command: str, value: Any = None) -> Any:
        """Send a command and wait for its answer."""
        write(self._to, (command, value))
        answer = read(self._from)
        if answer is None:
            raise SystemExit(f"{self.name}: its process ended")
        return answer

    def turn(self, calls: int) -> NDArray[np.float64]:
        """Milliseconds of some calls in a row, after a pause and an untimed call."""
        return np.array(self.ask("turn", calls))


def environment(folder: Path) -> str:
    """The peers' interpreter; its packages are installed where they are missing."""
    python = folder / "bin" / "python"
    if not (folder / ".done").is_file():
        venv.create(folder, with_pip=True, clear=True)
        for what in (["--no-deps", *BARE], list(PACKAGES)):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *what], check=True)
        (folder / ".done").touch()
    return str(python)


def int8_bundles(folder: Path, data: Path) -> None:
    """The packaged models, each in a folder of its name, with their INT8 models beside them."""
    for model in OURS:
        export = ["export", "--model", model, "--int8", "--data", str(data), "-o", str(folder / model)]
        subprocess.run([sys.executable, "-m", "poster_edge", *export], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and write ``peers.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of timed calls of each")
    parser.add_argument("--faces", type=int, help="fewer faces, for a trial; nothing is written then")
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "poster-edge-peers")
    args = parser.parse_args()
    faces = load_faces(args.data)
    rows = faces.indices("validation")[: args.faces]
    crops = [faces.read(int(i)) for i in rows]
    labels = np.array([faces.classes[k] for k in faces.labels[rows]])
    alone = ~twins_in_training(faces, rows)
    python = environment(args.environment)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        int8_bundles(Path(scratch), args.data.resolve())
        processes = []
        for name in PEERS:
            own = sys.executable if name.startswith(OURS) else python
            processes.append(stack.enter_context(PeerProcess(name, own, Path(scratch))))
        for process in processes:
            process.ask("faces", crops)
            for _ in range(2):
                process.turn(20)
        watch = Watch([os.getpid(), *(p.pid for p in processes)])
        watch.start()
        rounds = take_turns(processes, args.duration, watch)
        noise = watch.stop()
        base = rounds[list(PEERS).index(BASELINE)]
        machine = read_environment()
        found = []
        for process, own_rounds in zip(processes, rounds, strict=True):
            memory, names = process.ask("memory"), np.array(process.ask("names"))
            times, ratio = summarise(np.concatenate(own_rounds), batch=1), speed_ratio(base, own_rounds)
            right = names == labels
            found.append(
                {
                    "peer": process.name,
                    "ran": process.opened["what"],
                    "file": process.opened["file"],
                    "file_mb": process.opened["bytes"] / 1e6,
                    "faces": len(crops),
                    "accuracy": float(right.mean()),
                    "accuracy_without_twins": float(right[alone].mean()),
                    "calls": times.calls,
                    "p20_ms": times.p20_ms,
                    "p50_ms": times.p50_ms,
                    "p80_ms": times.p80_ms,
                    "p90_ms": times.p90_ms,
                    "p90_estimate_ms": times.p90_estimate_ms,
                    "p99_ms": times.p99_ms,
                    "baseline": BASELINE,
                    "ratio": ratio.value,
                    "ratio_low": ratio.low,
                    "ratio_high": ratio.high,
                    "rss_mib": memory,
                    "threads": 1,
                    "noisy": noise.noisy,
                    "noise": "; ".join(noise.reasons),
                    "machine": machine.device,
                    "power_mode": machine.power_mode,
                    "versions": " ".join(f"{k}={v}" for k, v in machine.versions.items()),
                    "commit": machine.commit,
                    "date": machine.date,
                }
            )
            print(f"{process.name:34} {times.p50_ms:7.3f} ms  {right.mean():.2%}", flush=True)
    for reason in noise.reasons:
        print("NOISY:", reason, file=sys.stderr)
    if not args.faces:
        (RESULTS / "peers.csv").write_text(table(found))


if __name__ == "__main__":
    main()
