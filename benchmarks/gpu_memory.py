"""Every function of ``poster_edge.runtime.device_memory`` on a real GPU, each with its result checked.

The tests run the same checks against a double of the driver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from poster_edge.optional import available
from poster_edge.runtime.device_memory import PACKAGES, CudaError, Device, open_device

SIZE = 5000


def memory_rows() -> list[dict[str, Any]]:
    """A row per check and CUDA package that is installed; ``error`` is the largest difference of a byte."""
    rows: list[dict[str, Any]] = []
    for package, module in PACKAGES.items():
        if not available(module):
            print(f"{package} is not installed: not checked")
            continue
        try:
            device = open_device(package=package)
        except Exception as error:  # whatever a package raises is one row
            rows.append({**row(package, "cannot be opened", 1.0), "note": f"{type(error).__name__}: {error}"})
            continue
        for name, check in CHECKS.items():
            try:
                rows.append(row(device.package, name, check(device)))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                rows.append({**row(device.package, name, float("nan")), "note": said})
        try:
            device.close()
        except Exception as error:
            rows.append({**row(package, "closing", 1.0), "note": f"{type(error).__name__}: {error}"})
    return rows


def row(package: str, what: str, error: float) -> dict[str, Any]:
    """One line of the table."""
    return {"what": f"{package}: {what}", "precision": "bytes", "error": error, "ok": error == 0}


class Held:
    """What a check holds; all of it is given back at its end."""

    def __init__(self, device: Device, size: int = SIZE) -> None:
        self.device = device
        self.first, self.second = device.allocate_host(size), device.allocate_host(size)
        self.memory, self.stream = device.allocate(size), device.create_stream()
        self.first[:] = self.sent = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        self.second[:] = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.synchronise(self.stream)
        self.device.free(self.memory)
        for array in (self.first, self.second):
            self.device.free_host(array)
        self.device.destroy_stream(self.stream)

    def round_trip(self, count: int | None = None) -> None:
        """Give the stream a copy to the GPU and one back."""
        self.device.copy_to_device(self.memory, self.first[:count], self.stream)
        self.device.copy_to_host(self.second[:count], self.memory, self.stream)


def worst(found: np.ndarray, expected: np.ndarray | int) -> float:
    """Largest difference."""
    return float(np.abs(found.astype(int) - expected).max())


def copies(device: Device) -> float:
    """There and back through one stream."""
    with Held(device) as held:
        assert held.first.shape == (SIZE,)
        assert device.stream_handle(held.stream)
        held.round_trip()
        device.synchronise(held.stream)
        return worst(held.second, held.sent.astype(int))


def events(device: Device) -> float:
    """A part, waited for through an event; the rest stays as it was; the time between two of them."""
    with Held(device) as held:
        start = device.record(held.stream)
        held.round_trip()
        took_ms = device.wait(device.record(held.stream), start)
        assert 0 < took_ms < 1000, f"two copies took {took_ms} ms"
        held.first[:100] = 7
        held.round_trip(100)
        device.wait(device.record(held.stream))
        return max(worst(held.second[:100], 7), worst(held.second[100:], held.sent[100:].astype(int)))


def graphs(device: Device) -> float:
    """Nothing happens while work is captured; each launch does it with what the memory then holds."""
    with Held(device) as held:
        device.begin_capture(held.stream)
        held.round_trip()
        graph = device.end_capture(held.stream)
        device.synchronise(held.stream)
        error = worst(held.second, 0)
        for value in (1, 2, 3):
            held.first[:] = value
            device.launch(graph, held.stream)
            device.synchronise(held.stream)
            error = max(error, worst(held.second, value))
        device.destroy_graph(graph)
        return error


def broken_capture(device: Device) -> float:
    """What cannot be captured is an error, and the stream works afterwards."""
    with Held(device) as held:
        device.begin_capture(held.stream)
        fails(device.synchronise, held.stream)
        fails(device.end_capture, held.stream)
        held.round_trip()
        device.synchronise(held.stream)
        return worst(held.second, held.sent.astype(int))


def too_much(device: Device) -> float:
    """An allocation that no GPU can serve is one clear error, and the next one works."""
    fails(device.allocate, 1 << 60)
    device.free(device.allocate(1 << 20))
    return 0.0


def threads(device: Device) -> float:
    """Another thread is served, or told that it cannot be."""
    said: list[str] = []

    def elsewhere() -> None:
        try:
            device.activate()
            with Held(device) as held:
                held.round_trip()
                device.synchronise(held.stream)
                said.append(str(worst(held.second, held.sent.astype(int))))
        except CudaError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    return 0.0 if said == ["0.0"] or "thread that opened" in said[0] else 1.0


def speed(device: Device) -> float:
    """64 MiB each way, timed."""
    with Held(device, 64 << 20) as held:
        for _ in range(2):
            began = time.perf_counter()
            held.round_trip()
            device.synchronise(held.stream)
        seconds = time.perf_counter() - began
        print(f"{device.package}: {2 * held.first.nbytes / seconds / 1e9:.1f} GB/s to the GPU and back")
        return worst(held.second[::4097], held.sent[::4097].astype(int))


def fails(call: Callable[..., object], *arguments: object) -> None:
    """The call must fail with one clear line."""
    text = ""
    try:
        call(*arguments)
    except CudaError as error:
        text = str(error)
    assert text.startswith("CUDA could not "), f"did not fail as it should: {text}"
    assert "\n" not in text


CHECKS: dict[str, Callable[[Device], float]] = {
    "copies": copies,
    "events": events,
    "CUDA graphs": graphs,
    "a capture that fails": broken_capture,
    "too much memory": too_much,
    "another thread": threads,
    "64 MiB": speed,
}
