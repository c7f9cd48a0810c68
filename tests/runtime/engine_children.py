"""Processes that the tests of the engine cache start, kill and wait for; light, so that they start fast.

python engine_children.py PROGRAM FOLDER …
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from poster_edge.export.engine_key import EngineKey
from poster_edge.runtime.engine_cache import EngineCache

KEY = EngineKey(
    flavour="tensorrt",
    tensorrt="10.3.0",
    gpu="Orin",
    gpu_capability="8.7",
    cuda="12.6",
    driver="540.4",
    compute_capabilities=("8.7",),
    onnx_sha256="a" * 64,
    calibration="b" * 64,
    profile="1/4/16",
    flags=("strongly-typed",),
    plugin="2" * 64,
)


def build_once(folder: Path, log: Path) -> None:
    """Print the hash of a plan; who builds it does not end before another process says that it waits."""

    def build() -> bytes:
        with log.open("a") as file:
            file.write("built\n")
        for _ in range(6000):
            if "waiting" in log.read_text():
                break
            time.sleep(0.01)
        return b"plan" * 100_000

    def notify(line: str) -> None:
        with log.open("a") as file:
            file.write(line + "\n")

    print(hashlib.sha256(EngineCache(folder, notify=notify).plan(KEY, build, label="nano")).hexdigest())


def build_for_ever(folder: Path) -> None:
    """Say "building" and never end."""

    def build() -> bytes:
        print("building", flush=True)
        time.sleep(600)
        raise AssertionError

    EngineCache(folder).plan(KEY, build, label="nano")


def wait_for_it(folder: Path) -> None:
    """Print every message, then the size of the plan."""
    cache = EngineCache(folder, notify=lambda line: print(line, flush=True))
    print(len(cache.plan(KEY, lambda: b"12345", label="nano")))


def build_rtx(folder: Path, onnx: Path) -> None:
    """Print the messages, and the hash of a plan that NVIDIA's builder made (or that another process had made)."""
    from poster_edge.export.engine import build_engine
    from poster_edge.export.engine_key import engine_key
    from poster_edge.export.engine_spec import EngineSpec
    from poster_edge.export.tensorrt_api import load

    rtx, graph = load("tensorrt-rtx"), onnx.read_bytes()
    spec = EngineSpec("tensorrt-rtx", compute_capabilities=("8.6",))
    key = engine_key(rtx, spec, gpu=None, onnx_sha256=hashlib.sha256(graph).hexdigest())
    cache = EngineCache(folder, notify=lambda line: print(line, flush=True))
    print(hashlib.sha256(cache.plan(key, lambda: build_engine(rtx, graph, spec).plan, label="tiny")).hexdigest())


def full_disk(folder: Path) -> None:
    """Build a plan that does not fit: RLIMIT_FSIZE fails the write that would pass it, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    plan = b"x" * 300_000
    assert EngineCache(folder, notify=print).plan(KEY, lambda: plan, label="nano") == plan


def disk_fills(folder: Path) -> None:
    """There is room for the plan, but none for its record."""

    def build() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        return b"y" * 40

    EngineCache(folder, notify=print).plan(KEY, build, label="nano")


def _kill_at_random(write: Callable[[Path, int], None], folder: Path) -> None:
    """Let a child write, and kill it a random moment after it has begun."""
    started, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        write(folder, said)
    os.read(started, 1)
    time.sleep(0.05 * random.random())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(started)
    os.close(said)


def kills(folder: Path, count: str) -> None:
    """Kill publishers at random moments; print what a reader found after each, and what is left at the end."""
    random.seed(7)
    report = {"temporaries": 0, "no record": 0, "read": 0, "wrong": 0}
    for _ in range(int(count)):
        _kill_at_random(_publish, folder)
        report["temporaries"] += len(list(folder.rglob(".poster-edge-tmp-*")))
        report["no record"] += sum(not p.with_suffix(".json").exists() for p in folder.glob("*.plan"))
        cache = EngineCache(folder)
        plans = [(n, cache.find(_key(n))) for n in range(7)]
        report["read"] += sum(plan is not None for _, plan in plans)
        report["wrong"] += sum(plan not in (None, _content(n)) for n, plan in plans)
    for path in folder.rglob(".poster-edge-tmp-*"):
        os.utime(path, (0, 0))
    EngineCache(folder).plan(KEY, lambda: b"last", label="nano")
    report["plans left"] = len(list(folder.glob("*.plan")))
    report["records left"] = len(list(folder.glob("*.json")))
    report["temporaries left"] = len(list(folder.rglob(".poster-edge-tmp-*")))
    print(json.dumps(report))


def bundle_kills(folder: Path, count: str) -> None:
    """Kill writers of a bundle of two files at random moments; print what was found in its place after each."""
    from poster_edge.runtime.bundle import load_bundle

    random.seed(7)
    report = {"whole": 0, "wrong": 0, "killed while writing": 0}
    for _ in range(int(count)):
        _kill_at_random(_write_bundles, folder)
        report["killed while writing"] += len(list(folder.glob(".poster-edge-tmp-*"))) > 0
        try:
            bundle = load_bundle(folder / "bundle")
            bundle.verify()
            one, other = (bundle.read(name) for name in _BUNDLED)
            report["whole"] += one == other and one in {_content(n) for n in range(7)}
        except Exception as error:
            report["wrong"] += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        for path in folder.glob(".poster-edge-tmp-*"):
            os.utime(path, (0, 0))
    from poster_edge.files import sweep

    sweep(folder)
    report["temporaries left"] = len(list(folder.glob(".poster-edge-tmp-*")))
    print(json.dumps(report))


_BUNDLED = ("model.onnx", "model.fp16.onnx")


def _write_bundles(folder: Path, said: int) -> None:
    """Write the bundle again and again, with another content each time, until killed."""
    from poster_edge.config import Preprocess
    from poster_edge.runtime.bundle import write_bundle
    from poster_edge.runtime.manifest import Manifest

    for n in range(os.getpid(), 1 << 60):
        (folder / "content").write_bytes(_content(n))
        manifest = Manifest(model="m", classes=("a", "b"), preprocess=Preprocess(), artefacts={}, source="a test")
        write_bundle(folder / "bundle", manifest, dict.fromkeys(_BUNDLED, folder / "content"), force=True)
        os.write(said, b".")


def _publish(folder: Path, said: int) -> None:
    """Publish plan after plan, in a cache that has no room for all, until killed."""
    cache = EngineCache(folder, limit_mib=1)
    for n in range(os.getpid(), 1 << 60):
        plan = _content(n)
        cache.forget(_key(n))
        cache.plan(_key(n), lambda plan=plan: plan, label="nano")
        os.write(said, b".")


def _key(n: int) -> EngineKey:
    return replace(KEY, driver=str(n % 7))


def _content(n: int) -> bytes:
    """What the plan of key n holds, 256 KiB."""
    return hashlib.sha256(str(n % 7).encode()).digest() * 8192


PROGRAMS = (build_once, build_for_ever, wait_for_it, build_rtx, full_disk, disk_fills, kills, bundle_kills)

if __name__ == "__main__":
    program, folder, *rest = sys.argv[1:]
    {f.__name__: f for f in PROGRAMS}[program](Path(folder), *(Path(r) if os.sep in r else r for r in rest))
