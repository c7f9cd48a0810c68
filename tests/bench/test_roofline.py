"""Bounds: known answers, the device table, and what KERNELS' fused form, other precisions and batches do to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poster_edge.bench.devices import DEVICES, Device, Figure, device_of_gpu, find_device
from poster_edge.bench.layers_graph import Cost, Graph, read_graph
from poster_edge.bench.roofline import at_precision, bounds, compute_time, floor, fuse_epilogues, memory_bound
from poster_edge.bench.roofline_host import measure_host
from poster_edge.cli.profile import TARGETS
from poster_edge.errors import UsageError
from poster_edge.runtime.bundle import load_bundle

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: 10^12 operations and 10^11 bytes a second.
DEVICE = Device("test", {"fp32": Figure(1, ""), "int8": Figure(4, "")}, Figure(100, ""))
#: POSTER at batch 1, µs in FP16 and INT8, counted independently of this code (by hand, from the sizes of its layers).
BY_HAND = {
    "h100": (46, 23),
    "rtx4090": (161, 76),
    "rtx3060": (696, 241),
    "orin-nano": (1596, 798),
    "orin-nx": (1511, 756),
    "agx-orin": (748, 374),
    "thor": (561, 281),
}


@pytest.fixture(scope="module")
def nano() -> Graph:
    return read_graph(load_bundle("poster-nano").read("model.onnx"), batch=1)


def test_floor_is_the_larger_of_both() -> None:
    compute = Cost({"fp32": 2_000_000, "int8": 4_000_000}, 0, 100, 50, 50)
    assert compute_time(compute, DEVICE) == pytest.approx(3e-6)
    assert floor(compute, DEVICE) == pytest.approx(3e-6)
    assert not memory_bound(compute, DEVICE)
    memory = Cost({"fp32": 1000}, 10**9, 500_000, 300_000, 200_000)
    assert floor(memory, DEVICE) == pytest.approx(1e-5)
    assert memory_bound(memory, DEVICE)
    # A rate that is not in the table counts as FP32.
    assert compute_time(Cost({"fp16": 10**6}, 0, 0, 0, 0), DEVICE) == pytest.approx(1e-6)


def test_bounds_are_ordered_and_follow_precision_and_batch(nano: Graph) -> None:
    device = find_device("orin-nano")
    plain, half = bounds(nano, device), bounds(at_precision(nano, "fp16"), device)
    assert plain.ideal <= plain.fused <= plain.layers
    assert half.ideal < plain.ideal / 1.9
    eight = bounds(at_precision(read_graph(load_bundle("poster-nano").read("model.onnx"), batch=8), "fp16"), device)
    assert half.layers < eight.layers < 8 * half.layers


def test_everything_at_a_precision(nano: Graph) -> None:
    whole, int8 = nano.total(), at_precision(nano, "int8").total()
    assert list(int8.flops) == ["int8"]
    assert int8.total_flops == whole.total_flops
    assert int8.inputs == whole.inputs / 4
    # What is narrower already stays as it is.
    assert at_precision(at_precision(nano, "int8"), "fp32").total() == int8


def test_epilogues_join_what_stands_before_them(nano: Graph) -> None:
    groups = fuse_epilogues(nano)
    assert sorted(i for g in groups for i in g) == list(range(len(nano.nodes)))
    leaders = [nano.nodes[g[0]].op for g in groups]
    assert "Relu" not in leaders
    assert leaders.count("Conv") == 43
    behind = {nano.nodes[i].op for g in groups if nano.nodes[g[0]].op == "Conv" for i in g[1:]}
    assert behind <= {"Relu", "Add", "Reshape"}


def test_device_table() -> None:
    assert tuple(DEVICES) == TARGETS
    for device in DEVICES.values():
        assert device.rate("fp32") < device.rate("fp16") < device.rate("int8")
        assert all(f.source for f in (*device.rates.values(), device.bandwidth))
    assert str(DEVICES["rtx4090"].rates["int8"]) == "661?"
    assert DEVICES["rtx4090"].doubtful("int8")
    assert not DEVICES["h100"].doubtful("int8")
    with pytest.raises(UsageError, match="expected one of orin-nano"):
        find_device("tpu")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("TensorRT 10.3 (Orin Nano, fp16, pycuda)", "orin-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "agx-orin"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Tesla T4", None),
    ],
)
def test_a_gpus_row_by_its_name(name: str, row: str | None) -> None:
    assert device_of_gpu(name) is (DEVICES[row] if row else None)


def test_this_cpus_ceilings_are_measured() -> None:
    found = measure_host(threads=1, seconds=0.05)
    assert found.measured
    assert 1e9 < found.rate("fp32") < 1e13
    assert 0.1 < found.bandwidth.value < 10_000
    assert all(f.source.startswith("measured: ") for f in (*found.rates.values(), found.bandwidth))


def test_posters_bounds_agree_with_those_counted_by_hand() -> None:
    """Of the committed record, which ``benchmarks/profile.py`` makes; the long test exports POSTER itself."""
    record = json.loads((RESULTS / "roofline_poster.json").read_text())
    found = {(r["target"], r["precision"]): r for r in record["bounds"] if r["batch"] == 1}
    for target, by_hand in BY_HAND.items():
        for precision, expected in zip(("fp16", "int8"), by_hand, strict=True):
            row = found[target, precision]
            assert row["fused_without_border_maps_us"] == pytest.approx(expected, rel=0.065), target
            # The exported graph stores maps where BatchNorm was folded past a padded convolution.
            assert row["fused_us"] == pytest.approx(expected, rel=0.08), target
    assert record["flops"] == 15_713_741_824
