"""The machine that a record was made on: what it is, how it is set, and what is installed.

Everything is read from files of Linux below a root folder; elsewhere entries stay empty, and the record
shows that they are.  What moves while something is measured is :mod:`poster_edge.bench.state`'s.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from poster_edge import __version__
from poster_edge.bench.sysfs import ROOT, listed, number, text
from poster_edge.export.gpu import visible_gpus

#: Packages whose versions change what is measured.
PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "triton",
    "tensorrt",
    "tensorrt-rtx",
    "opencv-python-headless",
    "opencv-python",
)
_CHECKOUT = Path(__file__).resolve().parents[2]
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")


@dataclass(frozen=True)
class Environment:
    """What does not change during a run.

    Attributes:
        board: name of the board, "" on a PC.
        cpu: name of the processor.
        arch: such as "x86_64".
        cores: processors that this process may use.
        cores_online: processors of the machine.
        cpu_max_mhz: highest clock that the processor has, None where the kernel does not tell.
        cpu_limit_mhz: highest clock that its settings allow.
        governor: of the processor's clock, "" where the kernel does not tell.
        boost: whether clocks above the nominal one are allowed.
        memory_mib: of the machine.
        gpus: name, compute capability, driver and CUDA of each.
        power_mode: a Jetson's, as ``nvpmodel`` names it, such as "MAXN (0)"; "" elsewhere.
        system: operating system and kernel, a Jetson's board support package included.
        versions: of Python, poster-edge and the packages that matter.
        commit: of the checkout, "-changed" added where files differ from it; "" for an installed package.
        date: UTC.
    """

    board: str
    cpu: str
    arch: str
    cores: int
    cores_online: int
    cpu_max_mhz: float | None
    cpu_limit_mhz: float | None
    governor: str
    boost: bool | None
    memory_mib: int | None
    gpus: tuple[str, ...]
    power_mode: str
    system: str
    versions: dict[str, str]
    commit: str
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "gpus": list(self.gpus)}

    @property
    def device(self) -> str:
        """The machine in a few words: board or processor, GPUs, power mode."""
        parts = [self.board or self.cpu, f"{self.cores} cores", *self.gpus]
        return ", ".join([*parts, *([f"power mode {self.power_mode}"] if self.power_mode else [])])


def read_environment(root: Path = ROOT) -> Environment:
    """Everything about the machine below ``root``."""
    policies = list(listed(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq"))
    governors = dict.fromkeys(g for p in policies if (g := text(p / "scaling_governor")))
    gpus = tuple(f"{g.name}, compute capability {g.compute_capability}, driver {g.driver}" for g in visible_gpus())
    return Environment(
        board=text(root / "proc/device-tree/model") or "",
        cpu=_cpu_name(root),
        arch=platform.machine(),
        cores=len(usable_cores(root)),
        cores_online=_online(root),
        cpu_max_mhz=_highest(policies, "cpuinfo_max_freq"),
        cpu_limit_mhz=_highest(policies, "scaling_max_freq"),
        governor=", ".join(governors),
        boost=_boost(root),
        memory_mib=_memory(root),
        gpus=gpus,
        power_mode=power_mode(root),
        system=_system(root),
        versions=versions(),
        commit=commit(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def usable_cores(root: Path = ROOT) -> frozenset[int]:
    """Numbers of the processors that this process may run on; below another root all that it lists."""
    if root == ROOT and hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    folders = listed(root / "sys/devices/system/cpu", "cpu[0-9]*")
    return frozenset(int(f.name[3:]) for f in folders) or frozenset(range(os.cpu_count() or 1))


def power_mode(root: Path = ROOT) -> str:
    """A Jetson's power mode from the files of ``nvpmodel``, which need no root; "" where there are none."""
    status = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    if not status:
        return ""
    number_ = int(status[1])
    names = {int(n): name for n, name in _MODE.findall(text(root / "etc/nvpmodel.conf") or "")}
    return f"{names.get(number_, 'unnamed')} ({number_})"


def versions() -> dict[str, str]:
    """Versions of Python, poster-edge and what of :data:`PACKAGES` is installed."""
    found = {"python": platform.python_version(), "poster-edge": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the checkout that this package is imported from."""
    if not (_CHECKOUT / ".git").exists():
        return ""
    # Files of another user's checkout are refused by git; a record without a commit is no failure.
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "poster_edge", "export", "calib", "kernels")
    return f"{head}{'-changed' if changed else ''}" if head else ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_CHECKOUT), *arguments], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name(root: Path) -> str:
    for key in ("model name", "Hardware", "Processor"):
        if found := re.search(rf"^{key}\s*: *(.+)$", text(root / "proc/cpuinfo") or "", re.MULTILINE):
            return found[1].strip()
    # 64-bit Arm names its cores by numbers only.
    part = re.search(r"^CPU part\s*: *(\S+)$", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return f"{platform.machine()}, part {part[1]}" if part else platform.processor() or platform.machine()


def _online(root: Path) -> int:
    found = re.findall(r"^processor\s*:", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return len(found) or os.cpu_count() or 1


def _highest(policies: list[Path], name: str) -> float | None:
    values = [v for p in policies if (v := number(p / name)) is not None]
    return max(values) / 1000 if values else None


def _boost(root: Path) -> bool | None:
    cpu = root / "sys/devices/system/cpu"
    if (off := number(cpu / "intel_pstate/no_turbo")) is not None:
        return not off
    on = number(cpu / "cpufreq/boost")
    return None if on is None else bool(on)


def _memory(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) // 1024 if found else None


def _system(root: Path) -> str:
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', text(root / "etc/os-release") or "", re.MULTILINE)
    jetson = re.search(r"R\d+[^,]*, REVISION: [\d.]+", text(root / "etc/nv_tegra_release") or "")
    kernel = text(root / "proc/sys/kernel/osrelease") or platform.release()
    parts = [
        release[1] if release else platform.system(),
        f"kernel {kernel}",
        *([f"L4T {jetson[0]}"] if jetson else []),
    ]
    return ", ".join(parts)
