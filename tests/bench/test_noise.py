"""A run under load is recognised as noisy, one on a quiet machine is not."""

from __future__ import annotations

import dataclasses
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from poster_edge.bench.load import read_accounts, resident_mib
from poster_edge.bench.noise import Watch, fixed_work_ms, judge
from poster_edge.bench.state import State, read_state

_TREES = runpy.run_path(str(Path(__file__).with_name("trees.py")))
jetson, pc, write = (_TREES[name] for name in ("jetson", "pc", "write"))
QUIET: dict[str, Any] = {
    "work": [5.0, 5.1, 4.9, 5.0, 5.05] * 4,
    "clocks": {"cpu0": [1510.4] * 20, "17000000.gpu": [1020.0] * 20},
    "foreign_cores": 0.02,
    "stolen": 0.0,
    "cores": 6,
}


def states(tmp_path: Path) -> tuple[State, State]:
    state = read_state(jetson(tmp_path), gpus=False)
    return state, state


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """A process that keeps one processor busy, pinned where the system can pin."""
    program = (
        "import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", f"{program}print(flush=True)\nwhile True: pass"], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_quiet_run_is_not_noisy(tmp_path: Path) -> None:
    noise = judge(**QUIET, states=states(tmp_path))
    assert not noise.noisy
    assert noise.unchecked == ()
    assert noise.clocks_mhz["cpu0"] == (1510.4, 1510.4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"foreign_cores": 0.4}, "other processes kept 0.40 processors busy"),
        ({"stolen": 0.05}, "the host gave 5.0%"),
        ({"work": [5.0, 9.0] * 10}, "took between 1 and 1.80 times as long"),
        ({"work": [5.0 + 0.05 * i for i in range(20)]}, "the clock moved"),
        (
            {"clocks": {"cpu0": [1500.0] * 10 + [1100.0] * 10}},
            "the clock of the processors moved between 1100 and 1500",
        ),
    ],
    ids=["load", "steal", "spread", "drift", "clock"],
)
def test_what_makes_a_run_noisy(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    noise = judge(**{**QUIET, **change}, states=states(tmp_path))
    assert noise.noisy
    assert any(told in reason for reason in noise.reasons), noise.reasons


def test_throttling_makes_a_run_noisy(tmp_path: Path) -> None:
    before, _ = states(tmp_path)
    after = dataclasses.replace(before, counters={**before.counters, "over-current oc3": 99})
    assert judge(**QUIET, states=(before, after)).reasons == ("over-current oc3 counted 62 throttling events",)


def test_a_gpu_that_idles_may_change_its_clock(tmp_path: Path) -> None:
    moving = {**QUIET, "clocks": {"17000000.gpu": [306.0, 1020.0] * 10}}
    assert not judge(**moving, states=states(tmp_path)).noisy
    assert judge(**moving, states=states(tmp_path), gpu=True).noisy


def test_the_scheduler_may_use_another_processor(tmp_path: Path) -> None:
    clocks = {"cpu0": [1500.0, 800.0] * 10, "cpu4": [800.0, 1500.0] * 10}
    assert not judge(**{**QUIET, "clocks": clocks}, states=states(tmp_path)).noisy


def test_what_cannot_be_looked_at_is_said() -> None:
    noise = judge(work=[5.0] * 9, clocks={}, foreign_cores=None, stolen=None, cores=2, states=(State(), State()))
    assert not noise.noisy
    assert len(noise.unchecked) == 3


def watched(seconds: float) -> Any:
    watch = Watch([os.getpid()])
    watch.start()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(0.02)
        watch.round_done()
    return watch.stop()


def test_a_busy_neighbour_is_seen() -> None:
    with busy_neighbour():
        noise = watched(1.0)
    assert noise.noisy
    assert noise.foreign_cores is not None
    assert noise.foreign_cores > 0.3
    assert "other processes kept" in noise.reasons[0]


def test_own_work_is_not_foreign() -> None:
    watch = Watch([os.getpid()])
    watch.start()
    alone = watched_foreign = None
    end, began = time.process_time() + 0.5, time.perf_counter()
    while time.process_time() < end:
        pass
    elapsed = time.perf_counter() - began
    watch.round_done()
    noise = watch.stop()
    watched_foreign, alone = noise.foreign_cores, 0.5 / elapsed
    # Whatever others did meanwhile, our half a second is not among it.
    assert watched_foreign is not None
    assert watched_foreign < len(os.sched_getaffinity(0)) - alone + 0.2


def test_accounts(tmp_path: Path) -> None:
    before = read_accounts([42, 4242], pc(tmp_path))
    assert before is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert (before.busy * ticks, before.stolen * ticks, before.own * ticks) == (300, 10, 50)
    write(tmp_path, {"proc/stat": "cpu  1\ncpu0 200 0 50 2500 0 0 0 5 0 0\ncpu1 100 0 50 2500 0 0 0 5 0 0\n"})
    after = read_accounts([42], tmp_path)
    assert after is not None
    assert (after.busy - before.busy) * ticks == 100
    assert read_accounts([1], tmp_path / "nowhere") is None


def test_memory_of_a_process() -> None:
    found = resident_mib()
    assert 5 < found["rss"] <= found["peak"]


def test_fixed_work_takes_milliseconds() -> None:
    assert 0.1 < fixed_work_ms() < 1000
