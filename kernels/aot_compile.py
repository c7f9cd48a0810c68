"""One Triton kernel to one cubin, for a GPU that need not be there; kept by the hash of what made it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.files import user_cache, write_atomic
from poster_edge.kernels.cache import hash_sources
from poster_edge.kernels.launch import Launch, signature
from poster_edge.kernels.toolchain import Resources, find_tool, read_resources, tool_version
from poster_edge.optional import require

_HERE = Path(__file__).parent
#: From here on a GPU has another assembler in Triton's wheel, which knows nothing of sm_110.
_BLACKWELL, _THOR = 100, 110


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel.

    Attributes:
        arch: 87 for sm_87.
        entry: name of the function.
        cubin: the machine code.
        ptx: what it was assembled from.
        signature: types of the run-time arguments, in order.
        trailing: pointers after the arguments (Triton's scratch memory), NULL here.
        resources: what it uses.
        ptxas: release of the assembler.
    """

    arch: int
    entry: str
    cubin: bytes
    ptx: str
    signature: dict[str, str]
    trailing: int
    resources: Resources
    ptxas: str


def triton_version() -> str:
    """Version of the installed Triton."""
    return metadata.version("triton")


def source_hash() -> str:
    """SHA-256 over the kernels' source; the plan of a launch is part of each kernel's own key."""
    return hash_sources((_HERE / "triton").glob("*.py"))


def compile_launch(step: Launch, precision: str, arch: int, *, cache: Path | None = None) -> Compiled:
    """Compile one planned launch, or take it from the cache.

    Args:
        step: from :func:`poster_edge.kernels.launch.plan`; its grid does not matter.
        precision: of weights and activations.
        arch: 87 for sm_87.
        cache: folder of compiled kernels [default: the user's].

    Raises:
        UnavailableError: no Triton, Triton as an interpreter, or no ptxas that knows the architecture.
        PosterEdgeError: the kernel does not compile, or wants scratch memory.
    """
    require("triton", purpose="compile kernels ahead of time")
    assembler = _assembler(arch)
    types = signature(step.kernel, precision)
    options = json.dumps([step.kernel, step.constants, step.warps, step.stages, list(types.items()), arch])
    key = hash_sources([], source_hash(), triton_version(), tool_version(assembler), options)
    stem = (cache or user_cache()) / "kernels" / key[:16] / f"{step.kernel}.sm_{arch}"
    facts = stem.with_suffix(stem.suffix + ".json")
    # The facts are written last: a build that was cut short is done again.
    if not facts.exists():
        compiled = _compile(step, precision, arch, assembler)
        write_atomic(_beside(facts, "cubin"), compiled.cubin)
        write_atomic(_beside(facts, "ptx"), compiled.ptx)
        known = {k: v for k, v in asdict(compiled).items() if k not in ("cubin", "ptx")}
        write_atomic(facts, json.dumps(known))
    read = json.loads(facts.read_text())
    resources = Resources(**read.pop("resources"))
    cubin, ptx = _beside(facts, "cubin").read_bytes(), _beside(facts, "ptx").read_text()
    return Compiled(cubin=cubin, ptx=ptx, resources=resources, **read)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_suffix(f".{suffix}")


def _assembler(arch: int) -> Path:
    """The ptxas of Triton's wheel, or the toolkit's where the wheel's does not know the architecture."""
    if arch == _THOR:
        found = find_tool("ptxas")
        if found is None or int(tool_version(found).split(".")[0]) < 13:
            raise UnavailableError("sm_110 needs the ptxas of CUDA 13 or later: set CUDA_HOME to that toolkit")
        return found
    knobs = require("triton.knobs", purpose="compile kernels ahead of time")
    tool = knobs.nvidia.ptxas_blackwell if arch >= _BLACKWELL else knobs.nvidia.ptxas
    return Path(tool.path)


def _compile(step: Launch, precision: str, arch: int, assembler: Path) -> Compiled:
    kernel = _kernel(step.kernel)
    types = signature(step.kernel, precision)
    if sorted([*types, *step.constants]) != sorted(kernel.arg_names):
        raise PosterEdgeError(f"the plan of {step.kernel} does not fit its arguments {kernel.arg_names}")
    compiled, log = _run_triton(kernel, types, step, arch, assembler)
    facts = compiled.metadata
    if facts.global_scratch_size or facts.profile_scratch_size:
        raise PosterEdgeError(f"{step.kernel} wants scratch memory of its own, which the loader does not give")
    ptx = compiled.asm["ptx"]
    trailing = ptx[: ptx.index(")")].count(".param") - len(types)
    resources = read_resources(log, ptx, dynamic_shared=facts.shared)
    return Compiled(arch, facts.name, compiled.asm["cubin"], ptx, types, trailing, resources, tool_version(assembler))


def _kernel(name: str) -> Any:
    from poster_edge.kernels.triton.jit import KERNELS, interpreted

    if interpreted():
        raise UnavailableError("TRITON_INTERPRET is set: unset it to compile kernels")
    return KERNELS[name]


def _run_triton(kernel: Any, types: dict[str, str], step: Launch, arch: int, assembler: Path) -> tuple[Any, str]:
    """Triton's compiler, without its cache and without line numbers; the second result is what ptxas said."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {n: types.get(n, "constexpr") for n in kernel.arg_names}
    # torch's allocations are aligned to more than 16 bytes; wide loads need to know.
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if kinds[n].startswith("*")}
    source = ASTSource(kernel, kinds, step.constants, aligned)
    log = io.StringIO()
    with TemporaryDirectory(prefix="poster-edge-") as scratch, contextlib.ExitStack() as stack:
        for part in (knobs.cache, knobs.compilation, knobs.nvidia):
            stack.enter_context(part.scope())
        knobs.cache.dir = scratch
        knobs.compilation.always_compile = True
        knobs.compilation.disable_line_info = True
        knobs.nvidia.dump_ptxas_log = True
        variable = "ptxas_blackwell" if arch >= _BLACKWELL else "ptxas"
        setattr(knobs.nvidia, variable, os.fspath(assembler))
        stack.enter_context(contextlib.redirect_stdout(log))
        try:
            compiled = triton.compile(
                source,
                target=GPUTarget("cuda", arch, 32),
                options={"num_warps": step.warps, "num_stages": step.stages},
            )
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise PosterEdgeError(f"Triton cannot compile {step.kernel} for sm_{arch}: {first}") from error
    return compiled, log.getvalue()
