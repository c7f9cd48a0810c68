"""What moves while something is measured: clocks, temperatures, and whether the device held itself back.

Sources, all readable without root: cpufreq and devfreq for clocks, thermal zones with their trip points, cooling
devices, Intel's throttle counters, the over-current counters of a Jetson (``soctherm_oc``, "Platform Power and
Performance" of NVIDIA's Jetson Linux guide), the quota of the control group, and ``nvidia-smi``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from poster_edge.bench.sysfs import ROOT, listed, number, text

#: Bits of NVML's clock event reasons that mean throttling: hardware slowdown, thermal slowdowns, power brake.
_GPU_THROTTLED = 0x08 | 0x20 | 0x40 | 0x80
#: Trip points below the one where the device stops; from here on it slows down.
_TRIPS = ("passive", "hot")
_FANS = re.compile("fan", re.IGNORECASE)


@dataclass(frozen=True)
class State:
    """One look at the device.

    Attributes:
        clocks_mhz: clock -> MHz, such as "cpu0" or "17000000.gpu".
        temperatures_c: thermal zone -> degrees Celsius.
        hot: zones at or above the temperature from which the device slows down.
        cooling: what slows the device down, fans not counted -> how far it is engaged, 0 not at all.
        counters: counters of throttling -> count since the machine was started.
        gpu_throttled: GPUs whose driver says that they are slowed down now.
        load_1m: processes that run or wait, mean of a minute; None where the kernel does not tell.
    """

    clocks_mhz: dict[str, float] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    hot: tuple[str, ...] = ()
    cooling: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    gpu_throttled: tuple[str, ...] = ()
    load_1m: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_state(root: Path = ROOT, *, gpus: bool = True) -> State:
    """Look at the device once; takes a millisecond, and with ``gpus`` as long as ``nvidia-smi`` does."""
    temperatures, hot = _thermal_zones(root)
    clocks = read_clocks(root)
    throttled: tuple[str, ...] = ()
    smi = shutil.which("nvidia-smi") if gpus else None
    if smi:
        gpu_clocks, gpu_temperatures, throttled = _ask_nvidia_smi(smi)
        clocks, temperatures = {**clocks, **gpu_clocks}, {**temperatures, **gpu_temperatures}
    return State(
        clocks_mhz=clocks,
        temperatures_c=temperatures,
        hot=hot,
        cooling=_cooling(root),
        counters=_counters(root),
        gpu_throttled=throttled,
        load_1m=_load(root),
    )


def read_clocks(root: Path = ROOT) -> dict[str, float]:
    """Clocks of every processor that has a setting of its own, and of devices (a Jetson's GPU and memory), in MHz."""
    clocks = {}
    for policy in listed(root / "sys/devices/system/cpu/cpufreq", "policy[0-9]*"):
        if (khz := number(policy / "scaling_cur_freq")) is not None:
            clocks[policy.name.replace("policy", "cpu")] = khz / 1000
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        if (hertz := number(device / "cur_freq")) is not None:
            clocks[device.name] = hertz / 1e6
    return clocks


def throttling(before: State, after: State) -> list[str]:
    """Why the device was slowed down between two looks, in words; empty when nothing says so."""
    found = [
        f"{name} counted {more} throttling events"
        for name, count in after.counters.items()
        if (more := count - before.counters.get(name, count)) > 0
    ]
    found += [
        f"cooling device {name} was engaged (step {step})"
        for name, step in after.cooling.items()
        if step > 0 or before.cooling.get(name, 0) > 0
    ]
    found += [f"{zone} is at {after.temperatures_c[zone]:.0f} °C, where the device slows down" for zone in after.hot]
    return found + [f"{gpu} is throttled, its driver says" for gpu in after.gpu_throttled]


def _thermal_zones(root: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    temperatures: dict[str, float] = {}
    hot = []
    for zone in listed(root / "sys/class/thermal", "thermal_zone[0-9]*"):
        value, name = number(zone / "temp"), text(zone / "type") or zone.name
        if value is None:
            continue
        name = f"{name} ({zone.name})" if name in temperatures else name
        temperatures[name] = value / 1000
        # A trip point that is not set stands at or below zero.
        trips = [
            t
            for kind in listed(zone, "trip_point_*_type")
            if text(kind) in _TRIPS and (t := number(kind.with_name(kind.name.replace("_type", "_temp")))) and t > 0
        ]
        if trips and value >= min(trips):
            hot.append(name)
    return temperatures, tuple(hot)


def _cooling(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for device in listed(root / "sys/class/thermal", "cooling_device[0-9]*"):
        name, step = text(device / "type") or device.name, number(device / "cur_state")
        if step is not None and not _FANS.search(name):
            found[f"{name} ({device.name})" if name in found else name] = int(step)
    return found


def _counters(root: Path) -> dict[str, int]:
    files: dict[str, Path] = {}
    for core in listed(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        for kind in ("core", "package"):
            files[f"{core.name} {kind}"] = core / "thermal_throttle" / f"{kind}_throttle_count"
    for chip in listed(root / "sys/class/hwmon", "hwmon[0-9]*"):
        if text(chip / "name") == "soctherm_oc":
            files.update({f"over-current {p.name[:3]}": p for p in listed(chip, "oc*_event_cnt")})
    found = {name: int(value) for name, path in files.items() if (value := number(path)) is not None}
    quota = re.search(r"^nr_throttled (\d+)$", text(root / "sys/fs/cgroup/cpu.stat") or "", re.MULTILINE)
    return {**found, **({"control group's CPU quota": int(quota[1])} if quota else {})}


def _load(root: Path) -> float | None:
    words = (text(root / "proc/loadavg") or "").split()
    return float(words[0]) if words else None


def _ask_nvidia_smi(program: str) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """Clocks in MHz, temperatures in °C, and the GPUs that are throttled."""
    query = "index,clocks.sm,clocks.mem,temperature.gpu,clocks_throttle_reasons.active"
    try:
        done = subprocess.run(
            [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}, {}, ()
    clocks: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    throttled = []
    for line in done.stdout.splitlines():
        cells = [c.strip() for c in line.split(",")]
        if len(cells) != 5 or not cells[0].isdigit():
            continue
        gpu = f"gpu{cells[0]}"
        clocks.update(_numbers({f"{gpu} sm": cells[1], f"{gpu} memory": cells[2]}))
        temperatures.update(_numbers({gpu: cells[3]}))
        if re.fullmatch("0x[0-9a-fA-F]+", cells[4]) and int(cells[4], 16) & _GPU_THROTTLED:
            throttled.append(gpu)
    return clocks, temperatures, tuple(throttled)


def _numbers(cells: dict[str, str]) -> dict[str, float]:
    """What of a driver's answers is a number; "[N/A]" is not."""
    return {name: float(value) for name, value in cells.items() if re.fullmatch(r"\d+(\.\d+)?", value)}
