"""Large batches are shared among threads, and the answers stay what they are."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.ort_lanes import Lanes
from poster_edge.runtime.ort_runner import OrtRunner


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(count, 3, 48, 48)).astype(np.float32)}


@pytest.mark.parametrize(("threads", "count"), [(2, 4), (2, 9), (3, 7)])
def test_shared_batches_have_the_same_answers_in_the_same_order(threads: int, count: int) -> None:
    feed = images(count)
    with OrtRunner(load_bundle("poster-nano"), device="cpu", threads=threads) as runner:
        found = runner.infer(feed)["logits"]
        single = np.concatenate([runner.infer({"image": feed["image"][i : i + 1]})["logits"] for i in range(count)])
    assert found.shape == (count, 7)
    np.testing.assert_allclose(found, single, rtol=1e-4, atol=1e-5)


def test_small_batches_open_no_second_session() -> None:
    opened: list[int] = []
    with OrtRunner(load_bundle("poster-nano"), device="cpu", threads=2) as runner:
        again = runner._open_again
        runner._lanes = Lanes(2, lambda threads: opened.append(threads) or again(threads))
        for count in (1, 2, 3):
            runner.infer(images(count))
        assert not opened
        runner.infer(images(4))
        runner.infer(images(5))
    assert opened == [1]
    assert not [t for t in threading.enumerate() if t.name.startswith("poster-edge-lane")]


def test_one_thread_shares_nothing() -> None:
    assert not Lanes(1, lambda _: pytest.fail("opened")).serve(64)
