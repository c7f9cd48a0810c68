"""The TensorRT plugin of ``poster-edge kernels plugin`` as a library file: is it one, and what does it compute in."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from poster_edge.errors import UnavailableError
from poster_edge.files import sha256
from poster_edge.kernels.plugin.names import PLUGIN_PRECISIONS

_PRECISION_OF = "posterEdgePluginPrecision"
_REMEDY = "build it as 'poster-edge kernels plugin --help' says"


@dataclass(frozen=True)
class PluginLibrary:
    """A library that :func:`open_plugin` has looked at.

    Attributes:
        path: absolute.
        sha256: of the file: a plan goes with the library it was built with.
        precision: of its kernels, a key of :data:`~poster_edge.kernels.plugin.names.PLUGIN_PRECISIONS`.
    """

    path: Path
    sha256: str
    precision: str

    @property
    def activations(self) -> str:
        """Type of what its kernels take and give: "fp32" or "fp16"."""
        return PLUGIN_PRECISIONS[self.precision]


def open_plugin(path: Path) -> PluginLibrary:
    """Look at a library, which runs what is in it: it must be one that the user trusts.

    Raises:
        UnavailableError: it is missing, for another machine, or no plugin of poster-edge.
    """
    path = path.absolute()
    if not path.is_file():
        raise UnavailableError(f"--plugin {path}: no such file; {_REMEDY}")
    try:
        precision_of = ctypes.CDLL(str(path))[_PRECISION_OF]
        digest = sha256(path)
    except (OSError, AttributeError) as error:
        # The loader's text begins with the path where it knows it.
        reason = str(error).removeprefix(f"{path}: ")
        raise UnavailableError(
            f"--plugin {path}: no plugin of poster-edge for this machine ({reason}); {_REMEDY}"
        ) from error
    precision_of.restype = ctypes.c_char_p
    precision = bytes(precision_of()).decode(errors="replace")
    if precision not in PLUGIN_PRECISIONS:
        raise UnavailableError(
            f"--plugin {path}: its kernels compute in {precision}; graphs are made for {', '.join(PLUGIN_PRECISIONS)}"
        )
    return PluginLibrary(path, digest, precision)
