"""Kernels compiled ahead: within each device's limits, listed, hashed, and refused where they cannot run."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from poster_edge.errors import InputError, PosterEdgeError, UnavailableError, UsageError
from poster_edge.kernels import chain
from poster_edge.kernels.aot import Entry, build_folder, launches
from poster_edge.kernels.aot_loader import (
    AheadOfTime,
    arguments,
    find_entry,
    pick_arch,
    pointer,
    read_cubin,
    read_manifest,
)
from poster_edge.kernels.cuda.build import build, build_fatbin
from poster_edge.kernels.dispatch import FOLDER, Call, choose
from poster_edge.kernels.launch import ARGUMENTS, plan, signature
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import FusionShape
from poster_edge.kernels.toolchain import ARCHITECTURES, SHARED_LIMIT, find_tool, parse_arch, read_resources
from poster_edge.models.poster import Poster
from poster_edge.optional import available

ROOT = Path(__file__).parents[2]
Device: Any = runpy.run_path(str(Path(__file__).with_name("host_device.py")))["Device"]
NANO = FusionShape(37, 2, (128, 64, 32), True, 2)
#: Bytes that a thread may spill.
SPILLS = 16
needs_triton = pytest.mark.skipif(not available("triton"), reason="needs Triton")
needs_nvcc = pytest.mark.skipif(find_tool("nvcc") is None, reason="needs nvcc of the CUDA toolkit")


def poster_edge(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: other tests use Triton as an interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"POSTER_EDGE_CACHE": str(cache)}
    command = [sys.executable, "-m", "poster_edge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def check_bars(entries: list[Entry]) -> None:
    for e in entries:
        where = f"{e.kernel} for sm_{e.arch}"
        assert 0 < e.shared <= SHARED_LIMIT[e.arch], where
        assert e.spills <= SPILLS, where
        assert 0 < e.registers <= 255, where
        # enter only copies; everything else multiplies matrices, in the matrix units.
        assert bool(e.matrix) == (e.kernel != "enter"), where


@pytest.fixture(scope="module")
def built(kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """poster-nano's kernels for Jetson Orin, by the command line."""
    folder = tmp_path_factory.mktemp("aot") / "orin"
    done = poster_edge(
        "kernels", "build", "--arch", "sm_87", "--model", "poster-nano", "-o", str(folder), cache=kernel_cache
    )
    assert done.returncode == 0, done.stderr
    assert "10 kernels" in done.stderr
    return folder


@needs_triton
def test_orin_within_its_limits(built: Path) -> None:
    shape, precision, entries = read_manifest(built)
    assert (shape, precision) == (NANO, "fp16")
    assert {e.kernel for e in entries} == set(ARGUMENTS)
    assert {e.arch for e in entries} == {87}
    check_bars(entries)
    for e in entries:
        assert read_cubin(built, e)[:4] == b"\x7fELF"


@needs_triton
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 64])
def test_every_batch_finds_its_kernels(built: Path, batch: int) -> None:
    _, _, entries = read_manifest(built)
    for kernel in ARGUMENTS:
        for last in (False, True):
            step = plan(kernel, NANO, batch, "fp16", last=last, capability=(8, 7))
            entry = entries[find_entry(entries, step)]
            assert list(entry.signature.items()) == list(signature(kernel, "fp16").items())
            tensors = {name: 4096 + 16 * i for i, name in enumerate(ARGUMENTS[kernel])} | {"batch": batch}
            values = arguments(entry, tensors)
            # Triton's two pointers to scratch memory follow, as NULL.
            assert len(values) == len(ARGUMENTS[kernel]) + 2
            assert [v.value for v in values[-2:]] == [None, None]
            assert [v.value for v in values[:-2]] == [tensors[n] for n in ARGUMENTS[kernel]]
            assert [type(v) is ctypes.c_int32 for v in values[:-2]] == [n == "batch" for n in ARGUMENTS[kernel]]


@needs_triton
@pytest.mark.parametrize("batch", [1, 3])
def test_a_folder_runs_where_triton_is_not_installed(
    built: Path, nano: Poster, depths: list[PackedDepth], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Jetson: the manifest, the files, and a driver, here one that computes each kernel's reference."""
    monkeypatch.setitem(sys.modules, "triton", None)
    device = Device(read_manifest(built)[2], built, depths[0], batch=batch)
    ahead = AheadOfTime(built, device)
    generator = torch.Generator().manual_seed(batch)
    levels = [torch.randn(batch, NANO.tokens, d, generator=generator).half() for d in NANO.dims]
    found = chain.run(levels, depths, partial(ahead.launch, stream=4711))
    expected = [t.double() for t in levels]
    for stage in nano.double().pyramid_fuse.blocks:
        expected = stage(expected)
    nano.float()
    first = expected[0][:, 0]
    assert (found.double() - first).norm() / first.norm() < 2e-3
    assert len(device.launched) == 1 + 5 * len(depths)
    for entry, grid, threads, shared, stream in device.launched:
        assert (threads, shared, stream) == (32 * entry.warps, entry.shared, 4711)
        step = plan(entry.kernel, NANO, batch, "fp16", last=bool(entry.constants.get("LAST")), capability=(8, 7))
        assert (grid, entry.constants) == ((*step.grid, 1), step.constants)


@needs_triton
def test_listed(built: Path, kernel_cache: Path, tmp_path: Path) -> None:
    done = poster_edge("kernels", "list", str(built), cache=kernel_cache)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    assert "widths 128/64/32" in done.stdout
    listed = json.loads(poster_edge("kernels", "list", "--json", str(built), cache=kernel_cache).stdout)
    assert [Entry(**e) for e in listed] == read_manifest(built)[2]
    missing = poster_edge("kernels", "list", str(tmp_path), cache=kernel_cache)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "no manifest.json" in missing.stderr


@needs_triton
def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "orin").write_text("no folder")
    with pytest.raises(InputError, match="orin has no .*: it is no folder of 'poster-edge kernels build'"):
        read_manifest(tmp_path / "orin")


def test_a_changed_file_is_refused(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    _, _, entries = read_manifest(copy)
    path = copy / entries[0].file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_cubin(copy, entries[0])
    with pytest.raises(InputError, match="outside the folder"):
        read_cubin(copy, replace(entries[0], file="../manifest.json"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        read_manifest(copy)


@needs_triton
def test_another_model_is_refused(built: Path) -> None:
    _, _, entries = read_manifest(built)
    poster = plan("attend", FusionShape(50, 8, (512, 256, 128), True, 2), 1, "fp16")
    with pytest.raises(UnavailableError, match="no attend for"):
        find_entry(entries, poster)
    with pytest.raises(UsageError, match="no multiple of 16"):
        arguments(entries[0], dict.fromkeys(ARGUMENTS[entries[0].kernel], 8) | {"batch": 1})
    with pytest.raises(UsageError, match="no device array"):
        pointer("x")


@needs_triton
def test_an_existing_folder_is_kept(built: Path, kernel_cache: Path) -> None:
    common = ("kernels", "build", "--arch", "sm_87", "--model", "poster-nano", "-o", str(built))
    before = (built / "manifest.json").read_bytes()
    refused = poster_edge(*common, cache=kernel_cache)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    assert (built / "manifest.json").read_bytes() == before
    assert poster_edge(*common, "--force", cache=kernel_cache).returncode == 0
    assert [p.name for p in built.parent.iterdir()] == ["orin"], "no temporary folder is left"


@pytest.mark.parametrize(
    ("arch", "problem"),
    [("sm_99", "unknown architecture 'sm_99'"), ("sm_75", "CUDA kernel k1 only"), ("orin", "unknown architecture")],
)
def test_wrong_architectures(arch: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        build_folder(tmp_path / "x", NANO, [parse_arch(arch)], model="poster-nano")
    assert not list(tmp_path.iterdir())


def test_wrong_models(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 pyramid levels"):
        build_folder(tmp_path / "x", replace(NANO, dims=(256, 128, 64, 32)), [87], model="m")
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        build_folder(tmp_path / "x", NANO, [87], model="m", precision="int4")


@pytest.mark.parametrize(
    ("archs", "device", "expected"),
    [
        ({80, 87}, 87, 87),
        ({80, 87}, 86, 80),
        ({80, 86}, 89, 86),
        ({80, 86}, 87, None),
        ({87}, 89, None),
        ({89}, 86, None),
        ({90}, 90, 90),
        ({120}, 121, None),
        ({80, 90}, 100, None),
        (set(), 87, None),
    ],
)
def test_what_runs_where(archs: set[int], device: int, expected: int | None) -> None:
    """Same major version and no newer minor, never between Jetson and desktop, exactly from 9.0 on."""
    if expected is not None:
        assert pick_arch(archs, device) == expected
        return
    with pytest.raises(UnavailableError, match=f"kernels build --arch sm_{device}"):
        pick_arch(archs, device)


def test_figures_of_ptxas() -> None:
    log = (
        "ptxas info    : Function properties for k\n"
        "    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 168 registers, used 1 barriers, 47104 bytes smem, 432 bytes cmem[0]\n"
    )
    r = read_resources(log, "wgmma.mma_async.sync", dynamic_shared=100)
    assert (r.registers, r.shared, r.spills, r.stack, r.matrix) == (168, 47204, 16, 8, "wgmma.mma_async")
    with pytest.raises(PosterEdgeError, match="no register count"):
        read_resources("", "")


def check_k1(arch: int, cache: Path) -> None:
    b = build("k1", arch, cache=cache)
    assert b.resources.shared <= min(48 << 10, SHARED_LIMIT[arch])
    assert b.resources.spills <= SPILLS
    assert b.resources.stack == 0, "the arguments must stay off the stack"
    assert b.resources.registers <= 255
    assert b.resources.matrix == "mma.sync"
    assert ("m16n8k8" if arch == 75 else "m16n8k16") in b.ptx.read_text()
    assert b.cubin.read_bytes()[:4] == b"\x7fELF"


@needs_nvcc
@pytest.mark.parametrize("arch", [75, 87])
def test_k1_within_the_limits(arch: int, kernel_cache: Path) -> None:
    check_k1(arch, kernel_cache)


@needs_nvcc
def test_fatbin_and_errors(kernel_cache: Path, tmp_path: Path) -> None:
    build_fatbin("k1", [75, 87], tmp_path / "k1.fatbin", cache=kernel_cache)
    size = sum(build("k1", a, cache=kernel_cache).cubin.stat().st_size for a in (75, 87))
    data = (tmp_path / "k1.fatbin").read_bytes()
    assert b"poster_edge_k1" in data or len(data) > size // 4
    with pytest.raises(UnavailableError, match="does not know sm_70"):
        build("k1", 70, cache=tmp_path)


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(UnavailableError, match="set CUDA_HOME"):
        build("k1", 87, cache=tmp_path)


@pytest.mark.campaign
@needs_nvcc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_k1_everywhere(arch: int, kernel_cache: Path) -> None:
    check_k1(arch, kernel_cache)


@pytest.mark.campaign
@needs_triton
@pytest.mark.parametrize("precision", ["fp16", "w8a16", "bf16"])
@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if a >= 80])
def test_poster_everywhere(arch: int, precision: str, kernel_cache: Path, tmp_path: Path) -> None:
    done = poster_edge(
        *("kernels", "build", "--arch", f"sm_{arch}", "--precision", precision, "-o", str(tmp_path / "k")),
        cache=kernel_cache,
    )
    assert done.returncode == 0, done.stderr
    _, _, entries = read_manifest(tmp_path / "k")
    assert len(entries) == len(launches(FusionShape(50, 8, (512, 256, 128), True, 2), precision, arch))
    check_bars(entries)


def test_dispatch_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call = Call(NANO, 1, torch.float16, torch.device("cuda"))
    with pytest.raises(UnavailableError, match="it needs a CUDA GPU"):
        choose(replace(call, device=torch.device("cpu")), backend="cuda")
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(UnavailableError, match="poster-edge kernels build"):
        choose(call, backend="cuda")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(UnavailableError, match="no manifest.json"):
        choose(call, backend="cuda")


@needs_triton
def test_dispatch_takes_a_folder_that_fits(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    monkeypatch.setenv(FOLDER, str(built))
    call = Call(NANO, 1, torch.float16, torch.device("cuda"))
    assert choose(call, backend="cuda").name == "cuda"
    # Every forward pass asks: the manifest is read once.
    monkeypatch.setattr("poster_edge.kernels.aot_loader.read_manifest", None)
    assert choose(call, backend="cuda").name == "cuda"
    monkeypatch.undo()
    monkeypatch.setenv(FOLDER, str(built))
    with pytest.raises(UnavailableError, match="holds fp16 kernels"):
        choose(replace(call, dtype=torch.bfloat16), backend="cuda")
    with pytest.raises(UnavailableError, match="no backward pass"):
        choose(replace(call, training=True), backend="cuda")


@needs_triton
def test_dispatch_reads_a_folder_again_when_it_is_built_anew(
    monkeypatch: pytest.MonkeyPatch, built: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    monkeypatch.setenv(FOLDER, str(copy))
    call = Call(NANO, 1, torch.float16, torch.device("cuda"))
    assert choose(call, backend="cuda").name == "cuda"
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"precision": "bf16"}))
    with pytest.raises(UnavailableError, match="holds bf16 kernels"):
        choose(call, backend="cuda")
