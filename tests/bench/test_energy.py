"""Energy: meters on copies of their sysfs trees with known answers, integration, and what happens without any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from poster_edge.bench.energy import Recording, idle_watts
from poster_edge.bench.energy_bench import Energy
from poster_edge.bench.energy_meters import Rail, find_rails, jetson_rails, nvml_index, nvml_rails, rapl_rails
from poster_edge.errors import PosterEdgeError, UnavailableError


def lay_out(root: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def ina3221(number: int, channels: dict[int, tuple[str, int, int]], **more: object) -> dict[str, object]:
    """JetPack 6's hwmon folder: label, mV, mA of each channel, and the sums that are no rails."""
    folder = f"sys/class/hwmon/hwmon{number}"
    files: dict[str, object] = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages"}
    for channel, (label, millivolt, milliampere) in channels.items():
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_enable": 1,
            f"{folder}/in{channel}_input": millivolt,
            f"{folder}/curr{channel}_input": milliampere,
            f"{folder}/in{channel + 3}_input": 12,
        }
    return files | {f"{folder}/{k}": v for k, v in more.items()}


ORIN_NANO = ina3221(1, {1: ("VDD_IN", 5000, 1200), 2: ("VDD_CPU_GPU_CV", 5000, 300), 3: ("VDD_SOC", 4992, 250)})
AGX_ORIN = ina3221(
    3, {1: ("VDD_GPU_SOC", 12000, 400), 2: ("VDD_CPU_CV", 12000, 100), 3: ("VIN_SYS_5V0", 5000, 900)}
) | ina3221(4, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 5000, 200), 3: ("NC", 0, 0)})
THOR = ina3221(2, {1: ("VDD_GPU", 12000, 1000), 2: ("VDD_CPU_SOC_MSS", 12000, 500), 3: ("VIN_SYS_5V0", 5000, 1000)}) | {
    "sys/class/hwmon/hwmon10/name": "ina238",
    "sys/class/hwmon/hwmon10/power1_input": 30_500_000,
    "sys/class/hwmon/hwmon10/in1_input": 20000,
    "sys/class/hwmon/hwmon10/curr1_input": 1525,
}
NVME = {"sys/class/hwmon/hwmon0/name": "nvme", "sys/class/hwmon/hwmon0/temp1_input": 40000}


@pytest.mark.parametrize(
    ("files", "watts", "whole"),
    [
        pytest.param(
            ORIN_NANO | NVME,
            {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 1.5, "VDD_SOC": 1.248},
            ["VDD_IN"],
            id="orin nano: one rail is the module",
        ),
        pytest.param(
            AGX_ORIN,
            {"VDD_GPU_SOC": 4.8, "VDD_CPU_CV": 1.2, "VIN_SYS_5V0": 4.5, "VDDQ_VDD2_1V8AO": 1.0},
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
            id="agx orin: three rails add up, memory is inside one",
        ),
        pytest.param(
            THOR,
            {"VDD_GPU": 12.0, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 5.0, "VIN": 30.5},
            ["VIN"],
            id="thor: INA238 before everything",
        ),
    ],
)
def test_jetson_rails(tmp_path: Path, files: dict[str, object], watts: dict[str, float], whole: list[str]) -> None:
    lay_out(tmp_path, files)
    rails = jetson_rails(tmp_path)
    assert {r.name: r.read() for r in rails} == pytest.approx(watts)
    assert [r.name for r in rails if r.whole] == whole


def test_a_channel_that_is_off_is_no_rail(tmp_path: Path) -> None:
    lay_out(tmp_path, ORIN_NANO | {"sys/class/hwmon/hwmon1/in2_enable": 0})
    assert [r.name for r in jetson_rails(tmp_path)] == ["VDD_IN", "VDD_SOC"]


def rapl(**energy: int) -> dict[str, object]:
    names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    files: dict[str, object] = {}
    for zone, name in names.items():
        if name.partition("-")[0] in energy:
            folder = f"sys/class/powercap/{zone}"
            files |= {f"{folder}/name": name, f"{folder}/max_energy_range_uj": 262_143_000_000}
            files[f"{folder}/energy_uj"] = energy[name.partition("-")[0]]
    return files


def test_rapl_adds_package_and_memory(tmp_path: Path) -> None:
    lay_out(tmp_path, rapl(package=5_000_000, core=3_000_000, dram=1_000_000))
    rails, _ = rapl_rails(tmp_path)
    assert [(r.name, r.read(), r.whole) for r in rails] == [
        ("package-0", 5.0, True),
        ("core 0", 3.0, False),
        ("dram 0", 1.0, True),
    ]
    lay_out(tmp_path, rapl(package=5_000_000, psys=9_000_000))
    assert [r.name for r in rapl_rails(tmp_path)[0] if r.whole] == ["psys"]


def test_rapl_counter_wraps(tmp_path: Path) -> None:
    lay_out(tmp_path, rapl(package=262_142_000_000))
    rails, _ = rapl_rails(tmp_path)
    with Recording(rails, interval_s=60) as recording:
        lay_out(tmp_path, rapl(package=500_000))
        recording.sample()
        lay_out(tmp_path, rapl(package=2_500_000))
    # 1 J up to the end of the range, then from 0 to 2.5 J.
    assert recording.report(faces=7).gross_joules == pytest.approx(3.5)
    assert recording.report(faces=7).gross_per_face == pytest.approx(0.5)


class Clock:
    """Time that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_power_is_integrated_by_trapezoids(tmp_path: Path) -> None:
    """2 W, 4 W a second later, 0 W two seconds later: 3 J + 4 J; idling at 1 W takes 3 J of them."""
    clock, values = Clock(), iter([2.0, 4.0, 0.0])
    rail = Rail("VDD_IN", "INA3221", lambda: next(values))
    with Recording([rail], interval_s=60, clock=clock) as recording:
        clock.now += 1
        recording.sample()
        clock.now += 2
    report = recording.report(faces=2, idle={"VDD_IN (INA3221)": 1.0})
    assert (report.seconds, report.samples) == (3.0, 3)
    assert report.gross_joules == pytest.approx(7.0)
    assert report.net_joules == pytest.approx(4.0)
    assert (report.gross_per_face, report.net_per_face) == pytest.approx((3.5, 2.0))
    assert report.rails[0].watts == pytest.approx(7 / 3)
    assert report.total == "VDD_IN (INA3221)"
    assert not report.notes
    assert report.to_dict()["net_joules_per_face"] == pytest.approx(2.0)


def test_only_outer_rails_are_added(tmp_path: Path) -> None:
    lay_out(tmp_path, AGX_ORIN)
    clock = Clock()
    with Recording(find_rails(tmp_path), interval_s=60, clock=clock) as recording:
        clock.now += 10
    report = recording.report(faces=0)
    assert report.gross_joules == pytest.approx(10 * 10.5)
    assert report.total == "VDD_GPU_SOC (INA3221) + VDD_CPU_CV (INA3221) + VIN_SYS_5V0 (INA3221)"
    assert len(report.rails) == 4
    assert (report.gross_per_face, report.net_joules) == (None, None)


def test_a_thread_samples(tmp_path: Path) -> None:
    lay_out(tmp_path, ORIN_NANO)
    rails = find_rails(tmp_path)
    idle = idle_watts(rails, seconds=0.05, interval_s=0.01)
    assert idle == pytest.approx({"VDD_IN (INA3221)": 6.0, "VDD_CPU_GPU_CV (INA3221)": 1.5, "VDD_SOC (INA3221)": 1.248})
    with Recording(rails, interval_s=0.01) as recording:
        time.sleep(0.1)
    report = recording.report(faces=1, idle=idle)
    assert report.samples >= 4
    assert report.gross_joules == pytest.approx(6.0 * report.seconds, rel=0.05)
    assert report.net_joules == pytest.approx(0, abs=0.05)
    assert any("short" in n for n in report.notes)


def test_readings_that_fail_are_told(tmp_path: Path) -> None:
    clock, values = Clock(), iter([2.0, None, 2.0])
    with Recording([Rail("a", "INA3221", lambda: next(values))], interval_s=60, clock=clock) as recording:
        clock.now += 1
        recording.sample()
        clock.now += 1
    report = recording.report(faces=0)
    assert report.gross_joules == pytest.approx(4.0)
    assert report.notes == ("1 readings failed and were bridged",)


def test_a_meter_that_breaks_is_an_error() -> None:
    answers: Iterator[float] = iter([1.0])

    def read() -> float:
        return next(answers, None) or bad()

    def bad() -> float:
        raise RuntimeError("driver gone")

    with pytest.raises(PosterEdgeError, match="driver gone"), Recording([Rail("a", "b", read)], interval_s=0.001):
        time.sleep(0.1)


class NvmlError(Exception):
    """As pynvml's."""


def nvml(*, energy: Callable[[Any], int] | None = None, power: Callable[[Any], int] | None = None) -> Any:
    """The part of NVML's bindings that is used; there is no NVIDIA driver on machines without a GPU."""

    def unsupported(handle: Any) -> int:
        raise NvmlError("Not Supported")

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"NVIDIA RTX",
        nvmlDeviceGetTotalEnergyConsumption=energy or unsupported,
        nvmlDeviceGetPowerUsage=power or unsupported,
    )


def test_nvml_counts_millijoules(tmp_path: Path) -> None:
    values = iter([1_000, 1_000, 4_000])
    rails = find_rails(tmp_path, gpu=1, nvml=nvml(energy=lambda handle: next(values)))
    assert [(r.name, r.meter, r.counts) for r in rails] == [("GPU 1, NVIDIA RTX", "NVML", True)]
    with Recording(rails, interval_s=60) as recording:
        pass
    report = recording.report(faces=3)
    assert report.gross_per_face == pytest.approx(1.0)
    assert "10 s or more" in report.notes[0]


def test_nvml_without_counter_gives_power() -> None:
    rails, _ = nvml_rails(0, nvml(power=lambda handle: 75_500))
    assert [(r.counts, r.read()) for r in rails] == [(False, 75.5)]
    assert nvml_rails(0, nvml())[1] == "GPU 0, NVIDIA RTX tells neither its energy nor its power"


@pytest.mark.parametrize(
    ("device", "visible", "index"),
    [("auto", None, 0), ("cuda:1", None, 1), ("cuda:1", "2,3", 3), ("cuda:0", "GPU-4fe1", 0), ("tensorrt:2", "", 2)],
)
def test_nvml_counts_all_gpus(device: str, visible: str | None, index: int) -> None:
    assert nvml_index(device, visible) == index


def test_no_meter_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no INA3221 or INA238 below .*no RAPL below .*leave --energy out"):
        find_rails(tmp_path)


def test_locked_rapl_says_what_to_do(tmp_path: Path) -> None:
    lay_out(tmp_path, rapl(package=1))
    # A folder cannot be read as a number, and root can read every file.
    energy = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.unlink()
    energy.mkdir()
    assert "sudo chmod a+r" in rapl_rails(tmp_path)[1]
    told: list[str] = []
    rails = find_rails(tmp_path, nvml=nvml(power=lambda handle: 1000), notify=told.append)
    assert [r.meter for r in rails] == ["NVML"]
    assert "the energy is without it" in told[0]


def test_candidates_are_measured_one_after_the_other(tmp_path: Path) -> None:
    """Each call takes 5 ms and works on four faces; the device draws 6 W whether it works or not."""
    lay_out(tmp_path, ORIN_NANO)
    energy = Energy(find_rails(tmp_path), rest_s=0.05, work_s=0.2)

    def turn(calls: int) -> np.ndarray:
        time.sleep(0.005 * (calls + 1))
        return np.full(calls, 5.0)

    for _ in range(2):
        report = energy.of(turn, faces_per_call=4)
        assert report.faces % 4 == 0
        assert 0.2 / 0.005 <= report.faces / 4 <= 0.2 / 0.005 + 101
        assert report.gross_joules == pytest.approx(6 * report.seconds, rel=0.05)
        assert report.net_joules == pytest.approx(0, abs=1e-6)
