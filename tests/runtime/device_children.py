"""The GPU checks of gpu_memory.py and gpu_runner.py in a process of their own, where the driver can be a double.

python device_children.py PACKAGE: a line per check, then "ok"; or one error line and the error's exit code.
python device_children.py runner: the same for the TensorRT runner on a stand-in engine.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from gpu_memory import CHECKS

from poster_edge.errors import PosterEdgeError
from poster_edge.runtime.device_memory import open_device


def check_memory(package: str) -> None:
    """Memory, streams and graphs through one package."""
    device = open_device(package=package)
    print(device.package, "|", device.gpu.name, device.gpu.compute_capability, device.gpu.cuda)
    for name, check in CHECKS.items():
        print(f"{name}: {check(device)}")
    device.close()


def check_runner() -> None:
    """The runner's own work, with little to wait for."""
    from gpu_runner import stand_in_rows

    for row in stand_in_rows(fills=2, scratch=1 << 20):
        assert row["ok"], row
        print(f"{row['what']}: {row['error']}")


def main() -> int:
    """Open, use, close; with the double, look at what was not given back."""
    try:
        if sys.argv[1] == "runner":
            check_runner()
        else:
            check_memory(sys.argv[1])
    except PosterEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    live = ctypes.CDLL("libcuda.so.1").double_live()
    assert live == 0, f"{live} objects were not given back"
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
