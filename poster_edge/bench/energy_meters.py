"""Power meters that can be read here without special tools: a Jetson's rails, RAPL, NVIDIA's driver.

Sources: the kernel's Documentation/hwmon/ina3221.rst and ina238.rst, Documentation/power/powercap/powercap.rst,
"Platform Power and Performance" of NVIDIA's Jetson Linux guide, and NVML's reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poster_edge.bench.sysfs import ROOT, listed, number, text
from poster_edge.errors import UnavailableError
from poster_edge.optional import available, require

#: A Jetson's rail behind which everything else lies, where it has one; the first that is there counts.
_WHOLE = ("VIN", "VDD_IN", "POM_5V_IN", "5V_IN")
#: AGX Orin's memory rail, which VIN_SYS_5V0 supplies.
_INSIDE = ("VDDQ_VDD2_1V8AO",)
#: Single-channel meters, which give the power itself.
_SINGLE = ("ina226", "ina228", "ina237", "ina238")
#: Domains of RAPL that no other domain contains.
_OUTER = ("package", "dram", "psys")


@dataclass(frozen=True)
class Rail:
    """One thing that is metered.

    Attributes:
        name: such as "VDD_IN" or "package-0".
        meter: what measures it, such as "INA3221".
        read: gives W, or J since some moment where ``counts``; None where it cannot be read just now.
        counts: whether it gives energy.
        wraps_at: J at which a counter begins anew; 0: never.
        whole: whether it is part of the sum for the whole device; the others lie inside one that is.
    """

    name: str
    meter: str
    read: Callable[[], float | None]
    counts: bool = False
    wraps_at: float = 0.0
    whole: bool = True


def find_rails(
    root: Path = ROOT, *, gpu: int = 0, nvml: Any = None, notify: Callable[[str], None] | None = None
) -> list[Rail]:
    """Every rail that can be read now.

    Args:
        root: where ``/sys`` is.
        gpu: NVIDIA's number of the GPU whose energy is asked for.
        nvml: stands in for the package ``pynvml``.
        notify: told why the totals are without something that could be metered.

    Raises:
        UnavailableError: there is none; says what was looked for and what to do.
    """
    rails = jetson_rails(root)
    reasons = [] if rails else [f"no INA3221 or INA238 below {root / 'sys/class/hwmon'}"]
    if not rails:
        # A Jetson's own rails hold its CPU and its GPU; a desktop's meters are separate devices.
        for found, reason in (rapl_rails(root), nvml_rails(gpu, nvml)):
            rails += found
            if not found:
                reasons.append(reason)
    if rails and notify and any("sudo" in reason for reason in reasons):
        notify(f"{'; '.join(reasons)}: the energy is without it")
    if not rails:
        raise UnavailableError(f"no power meter can be read here: {'; '.join(reasons)}; leave --energy out")
    return rails


def nvml_index(device: str, visible: str | None) -> int:
    """NVML's number of the GPU that ``--device`` names; CUDA counts only those that are visible to it.

    Args:
        device: such as "auto" or "cuda:1".
        visible: value of ``CUDA_VISIBLE_DEVICES``, None where it is not set.
    """
    number_ = device.partition(":")[2]
    index = int(number_) if number_.isdigit() else 0
    seen = [v.strip() for v in (visible or "").split(",")]
    return int(seen[index]) if index < len(seen) and seen[index].isdigit() else index


def jetson_rails(root: Path = ROOT) -> list[Rail]:
    """Rails of a Jetson's INA3221 (three channels each) and INA238."""
    rails: list[Rail] = []
    for folder in listed(root / "sys/class/hwmon", "hwmon[0-9]*"):
        chip = text(folder / "name") or ""
        if chip == "ina3221":
            rails += [rail for channel in (1, 2, 3) if (rail := _channel(folder, channel))]
        elif chip in _SINGLE:
            rails += _single(folder, chip)
    rails = [r for r in rails if r.read() is not None]
    names = [r.name for r in rails]
    if whole := next((n for n in _WHOLE if n in names), None):
        return [_with(r, whole=r.name == whole) for r in rails]
    return [_with(r, whole=r.name not in _INSIDE) for r in rails]


def _channel(folder: Path, channel: int) -> Rail | None:
    """A channel of an INA3221: millivolt x milliampere; None where it is switched off or not connected."""
    label = text(folder / f"in{channel}_label") or f"{folder.name} channel {channel}"
    if number(folder / f"in{channel}_enable") == 0 or label == "NC":
        return None

    def read() -> float | None:
        millivolt, milliampere = number(folder / f"in{channel}_input"), number(folder / f"curr{channel}_input")
        return None if millivolt is None or milliampere is None else millivolt * milliampere / 1e6

    return Rail(label, "INA3221", read)


def _single(folder: Path, chip: str) -> list[Rail]:
    """A chip that gives its power in microwatt.  Thor's INA238 stands before everything and has no label."""
    label = text(folder / "power1_label") or text(folder / "label") or text(folder / "in1_label") or "VIN"

    def read() -> float | None:
        microwatt = number(folder / "power1_input")
        return None if microwatt is None else microwatt / 1e6

    return [Rail(label, chip.upper(), read)]


def rapl_rails(root: Path = ROOT) -> tuple[list[Rail], str]:
    """Energy counters of the processor, and why there are none."""
    folder = root / "sys/class/powercap"
    zones = [z for z in listed(folder, "intel-rapl:*") if text(z / "name")]
    if not zones:
        return [], f"no RAPL below {folder}"
    rails = [rail for z in zones if (rail := _zone(z))]
    if not rails:
        locked = zones[0] / "energy_uj"
        return [], f"RAPL may be read by root only: sudo chmod a+r {locked.parent.parent}/intel-rapl:*/energy_uj"
    if any(r.name == "psys" for r in rails):
        # It holds the processor too.
        rails = [_with(r, whole=r.name == "psys") for r in rails]
    return rails, ""


def _zone(folder: Path) -> Rail | None:
    if number(folder / "energy_uj") is None:
        return None
    name = text(folder / "name") or folder.name
    # "intel-rapl:1:0" lies in "intel-rapl:1"; memory is beside the package it is listed under.
    whole = name.startswith(_OUTER)
    if folder.name.count(":") > 1:
        name = f"{name} {folder.name.split(':')[1]}"

    def read() -> float | None:
        microjoule = number(folder / "energy_uj")
        return None if microjoule is None else microjoule / 1e6

    most = number(folder / "max_energy_range_uj") or 0.0
    return Rail(name, "RAPL", read, counts=True, wraps_at=most / 1e6, whole=whole)


def nvml_rails(gpu: int = 0, nvml: Any = None) -> tuple[list[Rail], str]:
    """Energy of an NVIDIA GPU by its driver (Volta and later), else its power, and why there is none."""
    if nvml is None:
        if not available("pynvml"):
            return [], "nvidia-ml-py is not installed (pip install 'poster-edge[nvml]')"
        nvml = require("pynvml", purpose="read a GPU's energy")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
        name = f"GPU {gpu}, {_text(nvml.nvmlDeviceGetName(handle))}"
    except nvml.NVMLError as error:
        return [], f"NVIDIA's driver does not answer ({error})"
    for counts, ask in (
        (True, nvml.nvmlDeviceGetTotalEnergyConsumption),
        (False, nvml.nvmlDeviceGetPowerUsage),
    ):
        # Both in thousandths, of a joule or of a watt.
        read = _asker(nvml, ask, handle)
        if read() is not None:
            return [Rail(name, "NVML", read, counts=counts)], ""
    return [], f"{name} tells neither its energy nor its power"


def _asker(nvml: Any, ask: Callable[[Any], int], handle: Any) -> Callable[[], float | None]:
    def read() -> float | None:
        try:
            return ask(handle) / 1e3
        except nvml.NVMLError:
            return None

    return read


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _with(rail: Rail, *, whole: bool) -> Rail:
    return Rail(rail.name, rail.meter, rail.read, rail.counts, rail.wraps_at, whole)


def describe(rails: Sequence[Rail]) -> str:
    """Rails by name and meter, such as "VDD_IN (INA3221)"; those of the whole device only."""
    return " + ".join(f"{r.name} ({r.meter})" for r in rails if r.whole)
