"""GPU memory through the CUDA packages: their real code against a double of the driver, and without any driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.gpu import visible_gpus
from poster_edge.optional import available
from poster_edge.runtime.device_memory import PACKAGES, choose_package, open_device, require_gpu

HERE = Path(__file__).parent
#: pycuda is compiled on the machine that it runs on, so it is tested where it is.
INSTALLED = [name for name, module in PACKAGES.items() if available(module)]
no_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the double of libcuda.so.1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    words = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*words, str(HERE / "libcuda_double.c"), "-ldl"], check=True)
    return folder


def use(package: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "device_children.py"), package],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_cuda_python_is_among_what_the_tests_bring() -> None:
    assert "cuda-python" in INSTALLED


@pytest.mark.parametrize("package", INSTALLED)
def test_all_of_it_works_on_the_double(driver: Path, package: str) -> None:
    done = use(package, LD_LIBRARY_PATH=str(driver))
    assert done.returncode == 0, done.stderr
    first, *checks, last = [line for line in done.stdout.splitlines() if "GB/s" not in line]
    assert first.endswith("| double of a GPU 8.6 13.0")
    assert [line.rpartition(": ")[2] for line in checks] == ["0.0"] * 7
    assert last == "ok"


def test_the_runners_own_work_on_the_double(driver: Path) -> None:
    """As gpu-check does it on a GPU: TensorRT's engine replaced by copies in the runner's stream."""
    done = use("runner", LD_LIBRARY_PATH=str(driver))
    assert done.returncode == 0, done.stderr
    *checks, last = done.stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in checks] == ["0.0"] * 5
    assert last == "ok"


@pytest.mark.parametrize("package", INSTALLED)
@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("cuDevicePrimaryCtxRetain", 4, "cannot use cuda:0"),
        ("cuMemAlloc", 1, "allocate 0.0 MiB on the GPU: out of memory (CUDA_ERROR_OUT_OF_MEMORY)"),
        ("cuMemHostAlloc", 1, "allocate 0.0 MiB of page-locked memory: out of memory"),
        ("cuStreamSynchronize", 1, "wait for the GPU: some other failure"),
        ("cuEventSynchronize", 1, "wait for the GPU"),
        ("cuEventElapsedTime", 1, "time the GPU: some other failure"),
        ("cuStreamEndCapture", 1, "capture a CUDA graph: some other failure"),
        ("cuGraphInstantiate", 1, "instantiate a CUDA graph: some other failure"),
    ],
)
def test_what_fails_is_one_line(driver: Path, package: str, function: str, code: int, words: str) -> None:
    done = use(package, LD_LIBRARY_PATH=str(driver), DOUBLE_FAIL=function)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    if package == "cuda-python":
        assert words in line


@no_gpu
@pytest.mark.parametrize("package", ["auto", *INSTALLED])
def test_without_a_driver_it_is_exit_4_and_says_so(package: str) -> None:
    with pytest.raises(UnavailableError, match="driver.*use --runtime onnxruntime or openvino") as caught:
        open_device(package=package)
    assert caught.value.exit_code == 4


@no_gpu
def test_the_package_itself_says_so_without_a_driver() -> None:
    """Behind the first check: the package's own error becomes one line too."""
    from poster_edge.export.gpu import Gpu
    from poster_edge.runtime.cuda_python import CudaPythonDevice

    with pytest.raises(UnavailableError, match="cuda-python .* cannot use cuda:0: CUDA could not start") as caught:
        CudaPythonDevice(Gpu(0, "none", "8.6", "13.0", ""))
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_named(driver: Path) -> None:
    program = "from poster_edge.runtime.device_memory import require_gpu; require_gpu(3)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(HERE.parents[1])},
    )
    assert "there is no GPU cuda:3 here, only cuda:0 double of a GPU; choose one with --device" in done.stderr


@no_gpu
def test_what_is_missing_is_told_apart() -> None:
    with pytest.raises(UnavailableError, match="no NVIDIA GPU can be used here: the driver"):
        require_gpu()


def test_the_package_is_chosen_by_name_or_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from poster_edge.runtime import device_memory

    there: set[str] = set()
    monkeypatch.delenv("POSTER_EDGE_CUDA", raising=False)
    monkeypatch.setattr(device_memory, "available", lambda module: module in there)
    with pytest.raises(UnavailableError, match="cuda-python or pycuda is needed .*poster-edge.tensorrt."):
        choose_package()
    there.add("pycuda")
    assert choose_package() == "pycuda"
    with pytest.raises(UnavailableError, match="cuda-python is needed"):
        choose_package("cuda-python")
    there.add("cuda.bindings")
    assert choose_package() == "cuda-python"
    monkeypatch.setenv("POSTER_EDGE_CUDA", "pycuda")
    assert choose_package() == "pycuda"
    monkeypatch.setenv("POSTER_EDGE_CUDA", "cupy")
    with pytest.raises(UsageError, match="'cupy' .POSTER_EDGE_CUDA.: expected cuda-python or pycuda"):
        choose_package()
