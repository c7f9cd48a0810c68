"""MLPerf's own LoadGen as the oracle: it times a run, and from its calls our figures must come out the same."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poster_edge.bench.statistics import discarded, early_stopping, percentile, summarise

loadgen = pytest.importorskip("mlperf_loadgen")
SAMPLES = 4


class Run:
    """One LoadGen run over calls that take a little time each.

    Attributes:
        summary: text of its summary.
        ns: nanoseconds of every query.
    """

    def __init__(self, folder: Path, scenario: Any, queries: int) -> None:
        settings = loadgen.TestSettings()
        settings.scenario, settings.mode = scenario, loadgen.TestMode.PerformanceOnly
        settings.min_query_count = settings.max_query_count = queries
        settings.min_duration_ms = 0
        settings.multi_stream_samples_per_query = SAMPLES
        log = loadgen.LogSettings()
        log.log_output.outdir = str(folder)
        log.enable_trace = True
        turns = iter(np.random.default_rng(0).gamma(2.0, 40e-6, queries))

        def issue(samples: list[Any]) -> None:
            end = time.perf_counter() + next(turns)
            while time.perf_counter() < end:
                pass
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(s.id, 0, 0) for s in samples])

        sut = loadgen.ConstructSUT(issue, lambda: None)
        qsl = loadgen.ConstructQSL(8, 8, lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(sut, qsl, settings, log, "")
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)
        self.summary = (folder / "mlperf_log_summary.txt").read_text()
        self.ns = _latencies((folder / "mlperf_log_trace.json").read_text())

    def figure(self, pattern: str) -> float:
        found = re.search(pattern, self.summary)
        assert found, f"no {pattern!r} in\n{self.summary}"
        return float(found[1])


def _latencies(trace: str) -> np.ndarray:
    """Of every query: until its last sample was complete.  The trace is not quite JSON."""
    queries: dict[int, float] = {}
    for query, began, done in re.findall(
        r'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":(\d+),"complete_ns":(\d+)', trace
    ):
        queries[int(query)] = max(queries.get(int(query), 0.0), float(int(done) - int(began)))
    return np.array([queries[q] for q in sorted(queries)])


@pytest.mark.parametrize("queries", [64, 65, 300, 700])
def test_single_stream(tmp_path: Path, queries: int) -> None:
    run = Run(tmp_path, loadgen.TestScenario.SingleStream, queries)
    assert len(run.ns) == queries
    for share, name in ((0.5, "50.00"), (0.9, "90.00"), (0.99, "99.00")):
        assert percentile(run.ns, share) == run.figure(rf"{name} percentile latency \(ns\) *: (\d+)")
    assert discarded(queries, 0.9) == run.figure(r"Would discard (\d+) highest")
    assert early_stopping(run.ns, 0.9) == run.figure(r"Early stopping 90\.0th percentile estimate: (\d+)")
    if queries >= 662:
        assert early_stopping(run.ns, 0.99) == run.figure(r"Early stopping 99\.0th percentile estimate: (\d+)")
    else:
        assert run.figure(r"least (\d+) total queries") == 662
        assert early_stopping(run.ns, 0.99) is None
    mine = summarise(run.ns / 1e6, batch=1)
    assert mine.per_second == pytest.approx(run.figure(r"QPS w/o loadgen overhead *: ([\d.]+)"), rel=1e-3)
    assert mine.mean_ms * 1e6 == pytest.approx(run.figure(r"Mean latency \(ns\) *: (\d+)"), abs=1)


def test_too_few_queries(tmp_path: Path) -> None:
    run = Run(tmp_path, loadgen.TestScenario.SingleStream, 63)
    assert run.figure(r"Need to process at least (\d+) queries") == 64
    assert early_stopping(run.ns, 0.9) is None


def test_a_batch_is_a_query_of_many_samples(tmp_path: Path) -> None:
    run = Run(tmp_path, loadgen.TestScenario.MultiStream, 700)
    assert len(run.ns) == 700
    assert percentile(run.ns, 0.99) == run.figure(r"99\.00 percentile latency \(ns\) *: (\d+)")
    assert early_stopping(run.ns, 0.99) == run.figure(r"Early stopping 99\.0th percentile estimate: (\d+)")
