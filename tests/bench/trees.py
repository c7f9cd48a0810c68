"""Trees of /sys, /proc, /etc and /var as machines have them, for readers that take a root."""

from __future__ import annotations

from pathlib import Path


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def jetson(root: Path) -> Path:
    """A Jetson Orin Nano with JetPack 6, cool and at its full clocks."""
    cores = {}
    for core in range(6):
        policy = f"sys/devices/system/cpu/cpufreq/policy{core // 4 * 4}"
        cpu = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        for folder in (policy, cpu):
            cores[f"{folder}/scaling_cur_freq"] = "1510400\n"
            cores[f"{folder}/scaling_max_freq"] = "1510400\n"
            cores[f"{folder}/cpuinfo_max_freq"] = "1728000\n"
            cores[f"{folder}/scaling_governor"] = "schedutil\n"
    zones = {"cpu-thermal": ("52125", "99000"), "gpu-thermal": ("50000", "99000"), "tj-thermal": ("52125", "99000")}
    thermal = {}
    for number, (name, (temperature, trip)) in enumerate(zones.items()):
        zone = f"sys/class/thermal/thermal_zone{number}"
        thermal |= {f"{zone}/type": f"{name}\n", f"{zone}/temp": f"{temperature}\n"}
        thermal |= {f"{zone}/trip_point_0_type": "passive\n", f"{zone}/trip_point_0_temp": f"{trip}\n"}
        thermal |= {f"{zone}/trip_point_1_type": "critical\n", f"{zone}/trip_point_1_temp": "104500\n"}
    cooling = {"pwm-fan": "3", "cpufreq-cpu0": "0", "devfreq-17000000.gpu": "0"}
    for number, (name, step) in enumerate(cooling.items()):
        device = f"sys/class/thermal/cooling_device{number}"
        thermal |= {f"{device}/type": f"{name}\n", f"{device}/cur_state": f"{step}\n"}
    processors = "".join(f"processor\t: {n}\nBogoMIPS\t: 62.50\nCPU part\t: 0xd42\n\n" for n in range(6))
    return write(
        root,
        {
            **cores,
            **thermal,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/cpuinfo": processors,
            "proc/meminfo": "MemTotal:        7802096 kB\nMemFree:  100 kB\n",
            "proc/loadavg": "0.21 0.10 0.05 1/300 4242\n",
            "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
            "proc/stat": "cpu  60 0 60 9000 0 0 0 0 0 0\n"
            + "".join(f"cpu{n} 10 0 10 1500 0 0 0 0 0 0\n" for n in range(6)),
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
            "var/lib/nvpmodel/status": "pmode:0002\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
            "sys/class/hwmon/hwmon0/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon0/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon0/oc3_event_cnt": "37\n",
        },
    )


def pc(root: Path) -> Path:
    """A desktop with an Intel processor of two cores, in its powersave governor, boost on."""
    cores = {}
    for core in range(2):
        folder = f"sys/devices/system/cpu/cpu{core}"
        for policy in (f"{folder}/cpufreq", f"sys/devices/system/cpu/cpufreq/policy{core}"):
            cores[f"{policy}/scaling_cur_freq"] = "4700000\n"
            cores[f"{policy}/scaling_max_freq"] = "4700000\n"
            cores[f"{policy}/cpuinfo_max_freq"] = "5000000\n"
            cores[f"{policy}/scaling_governor"] = "powersave\n"
        cores[f"{folder}/thermal_throttle/core_throttle_count"] = "4\n"
        cores[f"{folder}/thermal_throttle/package_throttle_count"] = "9\n"
    return write(
        root,
        {
            **cores,
            "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 100\nnr_periods 5\nnr_throttled 2\nthrottled_usec 70\n",
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone0/temp": "61000\n",
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7-1370P\n\nprocessor\t: 1\n",
            "proc/meminfo": "MemTotal:       32000000 kB\n",
            "proc/loadavg": "1.50 1.00 0.50 2/900 77\n",
            "proc/stat": "cpu  200 0 100 5000 0 0 0 10 0 0\n"
            "cpu0 100 0 50 2500 0 0 0 5 0 0\ncpu1 100 0 50 2500 0 0 0 5 0 0\n",
            "proc/42/stat": "42 (a (b) c) R 1 42 42 0 -1 0 0 0 0 0 30 20 7 8 20 0 1 0 1 0 0\n",
        },
    )
