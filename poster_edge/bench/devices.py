"""Peak rates and memory bandwidth of devices that a model may be meant for.

A figure is a data sheet's, or, where ``derived`` is set, recalled or computed from one and shown with a ``?``.
Rates are dense: half of what data sheets call "sparse".  No device reaches its peaks; they bound times from below.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.errors import UsageError


@dataclass(frozen=True)
class Figure:
    """A rate with its origin.

    Attributes:
        value: TFLOPS, TOPS or GB/s.
        source: where it comes from.
        derived: recalled or computed, not read from a data sheet.
    """

    value: float
    source: str
    derived: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}{'?' if self.derived else ''}"


@dataclass(frozen=True)
class Device:
    """What a device can do at most.

    Attributes:
        name: for people.
        rates: precision -> 10^12 operations a second, 2 per multiply-add.
        bandwidth: of its memory, GB/s.
        measured: whether the figures were measured here instead of looked up.
    """

    name: str
    rates: dict[str, Figure]
    bandwidth: Figure
    measured: bool = False

    def rate(self, precision: str) -> float:
        """Operations a second in a precision; what is not in the table counts as FP32.

        Args:
            precision: "fp32", "fp16" or "int8".
        """
        return 1e12 * self.rates.get(precision, self.rates["fp32"]).value

    def doubtful(self, precision: str) -> bool:
        """Whether a bound in this precision rests on a derived figure."""
        return self.bandwidth.derived or self.rates.get(precision, self.rates["fp32"]).derived


def _table(
    name: str,
    sheet: str,
    rates: tuple[float, float, float],
    bandwidth: float,
    *,
    derived: str = "",
) -> Device:
    """A row: FP32, FP16 and INT8 rates and the bandwidth.

    Args:
        name: for people.
        sheet: the data sheet.
        rates: FP32 of the plain cores, FP16 and INT8 of the matrix cores.
        bandwidth: GB/s.
        derived: letters of what is recalled or computed: f(p32), h(alf), i(nt8), b(andwidth).
    """

    def figure(value: float, letter: str, how: str) -> Figure:
        unsure = letter in derived
        return Figure(value, f"{how if unsure else ''}{sheet}", unsure)

    return Device(
        name,
        {
            "fp32": figure(rates[0], "f", "cores x clock x 2 of the "),
            "fp16": figure(rates[1], "h", "derived from the "),
            "int8": figure(rates[2], "i", "derived from the "),
        },
        figure(bandwidth, "b", "recalled of the "),
    )


#: Names that ``--target`` takes.
DEVICES: dict[str, Device] = {
    "orin-nano": _table(
        "Jetson Orin Nano 8GB Super", "Jetson Orin Nano data sheet, 25 W mode", (2.1, 16.7, 33.4), 102, derived="f"
    ),
    "orin-nx": _table(
        "Jetson Orin NX 16GB Super", "Jetson Orin NX data sheet, 40 W mode", (2.4, 19.2, 38.4), 102, derived="fhib"
    ),
    "agx-orin": _table(
        "Jetson AGX Orin 64GB", "Jetson AGX Orin data sheet, MAXN", (5.3, 42.6, 85.2), 204.8, derived="fb"
    ),
    "thor": _table("Jetson AGX Thor T5000", "Jetson Thor data sheet, MAXN", (8.1, 258, 517), 273, derived="fib"),
    "rtx3060": _table("GeForce RTX 3060 12GB", "GA10x white paper", (12.7, 25.5, 102), 360, derived="fhib"),
    "rtx4090": _table("GeForce RTX 4090", "Ada white paper", (82.6, 165, 661), 1008, derived="i"),
    "h100": _table("H100 SXM", "H100 data sheet", (67, 989, 1979), 3350),
    "h200": _table("H200 SXM", "H200 data sheet", (67, 989, 1979), 4800),
}


#: Words of a GPU's name -> row of the table; the first that all occur counts.
_GPU_NAMES = (
    (("Orin", "Nano"), "orin-nano"),
    (("Orin", "NX"), "orin-nx"),
    (("AGX", "Orin"), "agx-orin"),
    (("Thor",), "thor"),
    (("3060",), "rtx3060"),
    (("4090",), "rtx4090"),
    (("H100",), "h100"),
    (("H200",), "h200"),
)


def device_of_gpu(name: str) -> Device | None:
    """The row of a GPU by the name that its driver gives, or None where the table has none."""
    words = name.replace("-", " ")
    return next((DEVICES[row] for parts, row in _GPU_NAMES if all(p in words for p in parts)), None)


def find_device(name: str) -> Device:
    """The device that ``--target`` names.

    Raises:
        UsageError: it is not in the table.
    """
    if name not in DEVICES:
        raise UsageError(f"--target {name}: expected one of {', '.join(DEVICES)}")
    return DEVICES[name]
