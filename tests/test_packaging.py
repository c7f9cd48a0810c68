"""The wheel: complete, usable without torch, and every import name in its place."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    found = [p.parent for n in ("poster_edge", "calib", "export", "kernels") for p in ROOT.glob(f"{n}/**/__init__.py")]
    names = {".".join(p.relative_to(ROOT).parts) for p in found}
    packages = {n if n.partition(".")[0] == "poster_edge" else f"poster_edge.{n}" for n in names}
    assert set(project()["tool"]["setuptools"]["packages"]) == packages


def test_version_is_one() -> None:
    import poster_edge

    assert poster_edge.__version__ == project()["project"]["version"]


def test_core_dependencies_are_few() -> None:
    names = {d.split(">")[0].strip() for d in project()["project"]["dependencies"]}
    assert names == {"numpy", "onnxruntime", "click", "rich", "opencv-python-headless"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_code_model_and_samples(unpacked: Path) -> None:
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    wanted = {
        "poster_edge/export/onnx.py",
        "poster_edge/calib/temperature.py",
        "poster_edge/kernels/attention.py",
        "poster_edge/kernels/plugin/csrc/CMakeLists.txt",
        "poster_edge/py.typed",
        "poster_edge/train/recipes/poster-mini.toml",
        "poster_edge/train/recipes/poster-nano.toml",
        "poster_edge/zoo/poster-nano/manifest.json",
        "poster_edge/zoo/poster-nano/model.onnx",
        "poster_edge/zoo/poster-mini/manifest.json",
        "poster_edge/zoo/poster-mini/model.onnx",
        "poster_edge/zoo/poster-mini/model.safetensors",
        "poster_edge/zoo/samples/astronaut.jpg",
    }
    assert wanted <= files
    assert not {f for f in files if f.startswith(("tests/", "benchmarks/", "export/", "kernels/", "calib/"))}
    assert sum(p.stat().st_size for p in (unpacked / "poster_edge" / "zoo").rglob("*") if p.is_file()) < 34_000_000


def test_no_top_level_names_are_taken(unpacked: Path) -> None:
    """``kernels`` is a published package's name; ours must not shadow it."""
    assert {p.name for p in unpacked.iterdir() if p.suffix != ".dist-info"} == {"poster_edge"}


def core_only(folder: Path) -> None:
    """Link the core dependencies, and what they need, into a folder: nothing else can be imported."""
    todo, done = ["numpy", "onnxruntime", "click", "rich", "opencv-python-headless"], set()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        distribution = metadata.distribution(name)
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        needs = [r.split(";")[0] for r in distribution.requires or [] if "extra ==" not in r]
        for need in needs:
            bare = "".join(c if c.isalnum() or c in "-_." else " " for c in need).split()[0]
            try:
                metadata.distribution(bare)
            except metadata.PackageNotFoundError:
                continue  # for another platform or Python
            todo.append(bare)


def test_wheel_runs_without_torch(unpacked: Path, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.mkdir()
    core_only(core)
    assert not (core / "torch").exists()
    photo = unpacked / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"
    # -I -S: no user site, no site-packages, no current folder; what is not on this path is not there.
    program = (
        f"import sys; sys.path[:0] = [{str(unpacked)!r}, {str(core)!r}]; from poster_edge.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, "run", "--source", str(photo), "--detector", "haar"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 face" in done.stdout


def test_checkout_imports_without_being_installed(tmp_path: Path) -> None:
    program = "import poster_edge.export.validate, poster_edge.calib.temperature as t; print(t.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == str(ROOT / "calib" / "temperature.py")
