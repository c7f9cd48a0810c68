"""What a record says of its machine, read from trees of machines that are not here, and from this one."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path

import pytest

from poster_edge.bench import environment
from poster_edge.bench.environment import power_mode, read_environment
from poster_edge.bench.state import State, read_clocks, read_state, throttling

_TREES = runpy.run_path(str(Path(__file__).with_name("trees.py")))
jetson, pc, write = (_TREES[name] for name in ("jetson", "pc", "write"))


def test_a_jetson(tmp_path: Path) -> None:
    found = read_environment(jetson(tmp_path))
    assert found.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found.cores, found.cores_online, found.memory_mib) == (6, 6, 7619)
    assert (found.cpu_max_mhz, found.cpu_limit_mhz, found.governor) == (1728.0, 1510.4, "schedutil")
    assert found.power_mode == "MAXN_SUPER (2)"
    assert "part 0xd42" in found.cpu
    assert found.system == "Ubuntu 22.04.5 LTS, kernel 5.15.148-tegra, L4T R36 (release), REVISION: 4.3"
    assert "power mode MAXN_SUPER (2)" in found.device
    json.dumps(found.to_dict())


def test_a_pc(tmp_path: Path) -> None:
    found = read_environment(pc(tmp_path))
    assert (found.board, found.cpu, found.power_mode) == ("", "Intel(R) Core(TM) i7-1370P", "")
    assert (found.boost, found.cpu_max_mhz, found.governor) == (True, 5000.0, "powersave")


def test_an_empty_tree_has_empty_entries(tmp_path: Path) -> None:
    found = read_environment(tmp_path)
    assert (found.board, found.governor, found.cpu_max_mhz, found.memory_mib, found.boost) == ("", "", None, None, None)
    assert read_state(tmp_path, gpus=False) == State()


def test_this_machine() -> None:
    found = read_environment()
    assert found.cores >= 1
    assert found.versions["numpy"]
    assert found.date.endswith("UTC")


def test_commit_names_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    assert environment.commit() == ""
    write(tmp_path, {"poster_edge/a.py": "1\n", **{f"{n}/a.py": "1\n" for n in ("export", "calib", "kernels")}})
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    assert environment.commit() == git("rev-parse", "HEAD")
    (tmp_path / "poster_edge/a.py").write_text("2\n")
    assert environment.commit() == f"{git('rev-parse', 'HEAD')}-changed"


def test_power_modes(tmp_path: Path) -> None:
    assert power_mode(tmp_path) == ""
    write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0007 fmode:quiet\n"})
    assert power_mode(tmp_path) == "unnamed (7)"


def test_state_of_a_cool_jetson(tmp_path: Path) -> None:
    state = read_state(jetson(tmp_path), gpus=False)
    assert state.clocks_mhz == {"cpu0": 1510.4, "cpu4": 1510.4, "17000000.gpu": 1020.0}
    assert state.temperatures_c["gpu-thermal"] == 50.0
    assert state.cooling == {"cpufreq-cpu0": 0, "devfreq-17000000.gpu": 0}
    assert state.counters == {"over-current oc1": 0, "over-current oc3": 37}
    assert state.load_1m == 0.21
    assert throttling(state, state) == []


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("sys/class/hwmon/hwmon0/oc3_event_cnt", "40\n", "over-current oc3 counted 3 throttling events"),
        ("sys/class/thermal/thermal_zone2/temp", "99125\n", "tj-thermal is at 99 °C"),
        ("sys/class/thermal/cooling_device1/cur_state", "2\n", "cpufreq-cpu0 was engaged (step 2)"),
    ],
    ids=["over-current", "hot", "cooling"],
)
def test_a_jetson_that_holds_itself_back(tmp_path: Path, file: str, content: str, told: str) -> None:
    before = read_state(jetson(tmp_path), gpus=False)
    write(tmp_path, {file: content})
    (reason,) = throttling(before, read_state(tmp_path, gpus=False))
    assert told in reason


def test_counters_of_a_pc(tmp_path: Path) -> None:
    before = read_state(pc(tmp_path), gpus=False)
    assert before.counters["control group's CPU quota"] == 2
    write(tmp_path, {"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5\n"})
    assert throttling(before, read_state(tmp_path, gpus=False)) == ["cpu1 core counted 1 throttling events"]


def test_a_sensor_that_gives_no_number_is_left_out(tmp_path: Path) -> None:
    write(jetson(tmp_path), {"sys/class/thermal/thermal_zone0/temp": "\n"})
    assert "cpu-thermal" not in read_state(tmp_path, gpus=False).temperatures_c
    assert len(read_clocks(tmp_path)) == 3


def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name stands in for the driver's: a slow GPU, and one whose memory clock is unknown."""
    program = tmp_path / "bin" / "nvidia-smi"
    write(
        tmp_path,
        {"bin/nvidia-smi": "#!/bin/sh\necho '0, 1410, 1215, 88, 0x0000000000000020'\necho '1, 300, [N/A], 40, 0x1'\n"},
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    state = read_state(tmp_path)
    assert state.clocks_mhz == {"gpu0 sm": 1410.0, "gpu0 memory": 1215.0, "gpu1 sm": 300.0}
    assert state.temperatures_c == {"gpu0": 88.0, "gpu1": 40.0}
    assert throttling(State(), state) == ["gpu0 is throttled, its driver says"]
