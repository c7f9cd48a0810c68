"""``poster-edge export --format triton``: what a user gets, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import onnx
import pytest

from poster_edge.config import DEFAULT_MODEL
from poster_edge.export.fp16 import input_range, to_fp16
from poster_edge.export.pbtxt import loads
from poster_edge.export.triton_check import validate_repository
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle

Command = Callable[..., CompletedProcess[str]]
TRITON = ("export", "--format", "triton")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The packaged model with an FP16 file of its own temperature, and both forms of INT8 (by name: not quantised)."""
    folder = tmp_path_factory.mktemp("several")
    source = load_bundle("poster-nano")
    model = onnx.load_from_string(source.read("model.onnx"))
    settings = source.manifest.preprocess
    half = to_fp16(model, input_range=input_range(settings.mean, settings.std)).SerializeToString()
    contents = {"model.onnx": source.read("model.onnx"), "model.fp16.onnx": half}
    for name in ("model.int8.onnx", "model.int8-inputs.onnx"):
        model.doc_string = name
        contents[name] = model.SerializeToString()
    files = {name: folder / name for name in contents}
    for name, data in contents.items():
        files[name].write_bytes(data)
    return write_bundle(folder / "b", source.manifest, files, temperatures={"model.fp16.onnx": 1.75})


def config(folder: Path, name: str) -> dict[str, list]:
    return loads((folder / name / "config.pbtxt").read_text())


def test_packaged_model(poster_edge: Command, tmp_path: Path) -> None:
    done = poster_edge(*TRITON, "-o", "repo", "--threads", "1", "--queue-delay", "250", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "tritonserver --model-repository=repo" in done.stderr
    assert "no server has run it" in done.stderr
    assert validate_repository(tmp_path / "repo") == []
    network = config(tmp_path / "repo", DEFAULT_MODEL)
    assert network["dynamic_batching"][0]["max_queue_delay_microseconds"] == [250]
    assert network["parameters"] == [{"key": ["intra_op_thread_count"], "value": [{"string_value": ["1"]}]}]
    again = poster_edge(*TRITON, "-o", "repo", cwd=tmp_path)
    assert again.returncode == 2
    assert "repo exists; pass --force" in again.stderr
    forced = poster_edge(*TRITON, "-o", "repo", "--force", "--no-ensemble", "--name", "fer", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr
    assert [p.name for p in (tmp_path / "repo").iterdir() if p.is_dir()] == ["fer"]


@pytest.mark.parametrize(
    ("options", "file", "temperature"),
    [
        ((), "model.onnx", None),
        (("--precision", "auto"), "model.onnx", None),
        (("--half",), "model.fp16.onnx", 1.75),
        (("--int8",), "model.int8.onnx", None),
        (("--int8", "--triton-tensorrt"), "model.int8-inputs.onnx", None),
        (("--precision", "int8", "--triton-backend", "tensorrt"), "model.int8-inputs.onnx", None),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_precisions(
    poster_edge: Command, several: Bundle, tmp_path: Path, options: tuple[str, ...], file: str, temperature: float
) -> None:
    done = poster_edge(*TRITON, "--model", str(several.folder), "-o", "r", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r/b/1/model.onnx").read_bytes() == several.read(file)
    post = onnx.load(str(tmp_path / "r/b-postprocess/1/model.onnx"))
    (constant,) = post.graph.initializer
    assert onnx.numpy_helper.to_array(constant) == (temperature or several.manifest.temperature)
    tensorrt = "tensorrt" in options
    assert (config(tmp_path / "r", "b")["backend"] == ["tensorrt"]) == tensorrt
    assert ("model.plan is to be built on the server: see r/README.md" in done.stderr) == tensorrt


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--precision", "int4"), 2, "'int4'"),
        (("--int8",), 4, "no int8 model, it has fp32"),
        (("--model", "nowhere"), 4, "no model 'nowhere'"),
        (("--checkpoint", "x.safetensors"), 2, "--format triton takes no --checkpoint"),
        (("--calib", "x", "--no-gate"), 2, "--format triton takes no --calib, --gate"),
        (("--triton-kind", "cpu", "--triton-backend", "tensorrt"), 2, "--triton-kind gpu"),
        (("--triton-kind", "gpu", "--int8"), 2, "computes INT8 graphs in float"),
        (("--triton-kind", "gpu", "--threads", "2"), 2, "--threads is about the CPU"),
        (("--name", "a/b"), 2, "--name 'a/b': expected a plain name"),
        (("--max-batch", "0"), 2, "--max-batch"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_what_cannot_be_is_one_line(
    poster_edge: Command, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = poster_edge(*TRITON, "-o", "r", *options, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "r").exists()


def test_a_folder_that_cannot_name_a_model(poster_edge: Command, several: Bundle, tmp_path: Path) -> None:
    (tmp_path / "my bundle").symlink_to(several.folder)
    done = poster_edge(*TRITON, "--model", "my bundle", "-o", "r", cwd=tmp_path)
    assert done.returncode == 2
    assert "'my bundle' cannot name a model of the server" in done.stderr
    assert "pass --name" in done.stderr
    assert not (tmp_path / "r").exists()


def test_its_options_alone_are_refused(poster_edge: Command, tmp_path: Path) -> None:
    done = poster_edge("export", "--instances", "2", "-o", "b", cwd=tmp_path)
    assert done.returncode == 2
    assert "--format triton is what goes with --instances" in done.stderr


def test_a_damaged_bundle_is_refused(poster_edge: Command, several: Bundle, tmp_path: Path) -> None:
    files = {n: several.folder / n for n in several.manifest.artefacts}
    bundle = write_bundle(tmp_path / "b", replace(several.manifest, artefacts={}), files)
    path = bundle.folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = poster_edge(*TRITON, "--model", "b", "-o", "r", cwd=tmp_path)
    assert done.returncode == 4
    assert "SHA-256" in done.stderr
    assert not (tmp_path / "r").exists()
