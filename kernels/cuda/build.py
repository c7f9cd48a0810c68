"""Compiles CUDA kernels with nvcc, one cubin for each architecture, kept by the hash of their source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.files import user_cache, write_atomic
from poster_edge.kernels.cache import hash_sources
from poster_edge.kernels.toolchain import Resources, read_resources, require_tool, run_tool, tool_version

CSRC = Path(__file__).parent / "csrc"
#: Names of the kernels: ``csrc/NAME.cu`` with the entry point ``poster_edge_NAME``.
KERNELS = ("k1",)
_FLAGS = ("-O3", "-std=c++17")


@dataclass(frozen=True)
class Built:
    """One compiled kernel.

    Attributes:
        kernel: its name.
        arch: 87 for sm_87.
        cubin: the compiled file; the PTX lies beside it.
        resources: what it uses.
        compiler: release of nvcc.
        source: SHA-256 of the source, its headers, the flags and the compiler's release.
    """

    kernel: str
    arch: int
    cubin: Path
    resources: Resources
    compiler: str
    source: str

    @property
    def ptx(self) -> Path:
        """The kernel's PTX."""
        return self.cubin.with_suffix(".ptx")


def build(kernel: str, arch: int, *, cache: Path | None = None) -> Built:
    """Compile one kernel for one architecture, or take it from the cache.

    Args:
        kernel: one of :data:`KERNELS`.
        arch: 87 for sm_87.
        cache: folder of compiled kernels [default: the user's].

    Raises:
        UnavailableError: no nvcc, or one that does not know the architecture.
        PosterEdgeError: the source does not compile.
    """
    nvcc = require_tool("nvcc")
    version = tool_version(nvcc)
    source = CSRC / f"{kernel}.cu"
    key = hash_sources([source, CSRC / "device.h"], version, *_FLAGS)
    folder = (cache or user_cache()) / "kernels" / key[:16]
    cubin, facts = folder / f"{kernel}.sm_{arch}.cubin", folder / f"{kernel}.sm_{arch}.json"
    # The facts are written last: a build that was cut short is done again.
    if not facts.exists():
        _check_arch(nvcc, version, arch)
        resources = _compile(nvcc, source, arch, cubin)
        write_atomic(facts, json.dumps(asdict(resources)))
    return Built(kernel, arch, cubin, Resources(**json.loads(facts.read_text())), version, key)


def build_fatbin(kernel: str, archs: Sequence[int], path: Path, *, cache: Path | None = None) -> None:
    """Join the cubins of several architectures in one file, from which the driver picks.

    Raises:
        UnavailableError, PosterEdgeError: as :func:`build`.
    """
    images = [build(kernel, arch, cache=cache) for arch in archs]
    with TemporaryDirectory(prefix="poster-edge-") as scratch:
        out = Path(scratch) / "out.fatbin"
        parts = [f"--image3=kind=elf,sm={b.arch},file={b.cubin}" for b in images]
        run_tool([str(require_tool("fatbinary")), "--64", f"--create={out}", *parts], what=kernel)
        write_atomic(path, out.read_bytes())


def _check_arch(nvcc: Path, version: str, arch: int) -> None:
    known = run_tool([str(nvcc), "--list-gpu-code"], what="a list of architectures").split()
    if f"sm_{arch}" not in known:
        raise UnavailableError(f"nvcc {version} does not know sm_{arch}, only {', '.join(known)}")


def _compile(nvcc: Path, source: Path, arch: int, cubin: Path) -> Resources:
    """By way of PTX, which tells what instructions are used."""
    ptxas = nvcc.with_name("ptxas")
    with TemporaryDirectory(prefix="poster-edge-") as scratch:
        ptx, image = Path(scratch) / "k.ptx", Path(scratch) / "k.cubin"
        run_tool([str(nvcc), "-ptx", f"-arch=compute_{arch}", *_FLAGS, str(source), "-o", str(ptx)], what=source.name)
        log = run_tool([str(ptxas), f"-arch=sm_{arch}", "-v", str(ptx), "-o", str(image)], what=source.name)
        if not image.exists():
            raise PosterEdgeError(f"ptxas wrote nothing for {source.name} and sm_{arch}")
        write_atomic(cubin.with_suffix(".ptx"), ptx.read_bytes())
        write_atomic(cubin, image.read_bytes())
        return read_resources(log, ptx.read_text())
