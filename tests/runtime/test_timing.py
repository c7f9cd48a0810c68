"""Timing in turns: order, counts, pauses and budget."""

from __future__ import annotations

import time

import pytest

from poster_edge.runtime.timing import interleaved


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    times = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1, settle_s=0.0
    )
    # One warm-up each, then an untimed and a timed call per turn.
    assert "".join(calls) == "ab" + "aabb" * 3
    assert {name: len(v) for name, v in times.items()} == {"a": 3, "b": 3}


def test_measures_the_call_and_not_the_pause() -> None:
    times = interleaved({"slow": lambda: time.sleep(0.02)}, rounds=3, warmup=0, settle_s=0.05)
    assert times["slow"].min() >= 20
    assert times["slow"].min() == pytest.approx(20, abs=15)


def test_budget_ends_it_but_not_before_five_rounds() -> None:
    assert len(interleaved({"a": lambda: time.sleep(0.01)}, rounds=500, settle_s=0.0, budget_s=0.05)["a"]) == 5
