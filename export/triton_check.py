"""Reads a Triton repository back and holds it against its ONNX files, as far as that goes without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from poster_edge.errors import PosterEdgeError
from poster_edge.export.pbtxt import loads
from poster_edge.export.triton_config import ONNX, PLAN, Signature, Tensor, signature

CONFIG = "config.pbtxt"
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "ensemble": ""}


def validate_repository(folder: Path) -> list[str]:
    """Check every model of a repository.

    Checked: names of folders and models; that names, types and shapes of ``config.pbtxt`` are those of the
    ONNX file (of the one it is to be built from, where a plan is served); labels; batch sizes; warm-up; that
    the tensors of an ensemble's steps fit each other.

    Returns:
        What is still to be done, such as "nano/1/model.plan is to be built on the server".

    Raises:
        PosterEdgeError: lists everything that is wrong.
    """
    configs: dict[str, dict[str, list[Any]]] = {}
    problems: list[str] = []
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        try:
            configs[path.parent.name] = loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{path.parent.name}/{CONFIG}: {error}")
    if not configs and not problems:
        problems.append("it holds no model")
    notes: list[str] = []
    for name, config in configs.items():
        try:
            problems += [f"{name}: {p}" for p in _model_problems(folder / name, config, configs)]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            problems.append(f"{name}: an entry is missing or of another kind ({error})")
        if _one(config, "platform") == "tensorrt_plan" and not (folder / name / "1" / PLAN).is_file():
            notes.append(f"{name}/1/{PLAN} is to be built on the server")
    if problems:
        raise PosterEdgeError(f"{folder} is no sound Triton repository: {'; '.join(problems)}")
    return notes


def configured(config: dict[str, list[Any]]) -> Signature:
    """What a configuration says that its model takes and gives."""
    made = [
        tuple(Tensor(t["name"][0], str(t["data_type"][0]), tuple(t["dims"])) for t in config.get(part, []))
        for part in ("input", "output")
    ]
    return Signature(made[0], made[1])


def _one(config: dict[str, list[Any]], name: str, default: Any = "") -> Any:
    return config.get(name, [default])[0]


def _model_problems(folder: Path, config: dict[str, list[Any]], others: dict[str, Any]) -> Iterator[str]:
    if _one(config, "name") != folder.name:
        yield f"its configuration is named '{_one(config, 'name')}'"
    platform, found = _one(config, "platform"), configured(config)
    if platform not in _PLATFORMS or _one(config, "backend") != _PLATFORMS[platform]:
        yield f"platform '{platform}' does not go with backend '{_one(config, 'backend')}'"
    if not (folder / "1").is_dir():
        yield "has no version 1"
    elif platform == "ensemble":
        yield from _ensemble_problems(config, found, others)
    else:
        yield from _file_problems(folder / "1" / ONNX, found, _one(config, "max_batch_size", 0))
    yield from _label_problems(folder, config)
    yield from _batch_problems(config, found)


def _file_problems(path: Path, found: Signature, max_batch: int) -> Iterator[str]:
    try:
        own = signature(onnx.load(str(path), load_external_data=False))
    except Exception as error:  # protobuf's errors and the file system's
        yield f"{path.name} cannot be read ({type(error).__name__})"
        return
    for kind, said, real in (("input", found.inputs, own.inputs), ("output", found.outputs, own.outputs)):
        if {_key(t) for t in said} != {_key(t) for t in real}:
            yield f"{kind}s {_show(said)} are not the file's, {_show(real)}"
    if fixed := {t.batch for t in (*own.inputs, *own.outputs)} - {0}:
        yield f"the file takes batches of {sorted(fixed)} only, max_batch_size is {max_batch}"


def _key(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.data_type, tensor.dims


def _show(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.name} {t.data_type} {list(t.dims)}" for t in tensors)


def _label_problems(folder: Path, config: dict[str, list[Any]]) -> Iterator[str]:
    for output in config.get("output", []):
        if file := _one(output, "label_filename"):
            try:
                count = len((folder / file).read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError):
                yield f"its labels file {file} cannot be read"
                continue
            if count != output["dims"][-1]:
                yield f"{file} names {count} classes, '{output['name'][0]}' has {output['dims'][-1]}"


def _batch_problems(config: dict[str, list[Any]], found: Signature) -> Iterator[str]:
    limit = _one(config, "max_batch_size", 0)
    preferred = [n for d in config.get("dynamic_batching", []) for n in d.get("preferred_batch_size", [])]
    if wrong := [n for n in preferred if not 1 <= n <= limit]:
        yield f"preferred batch sizes {wrong} are not within 1 to {limit}"
    expected = {_key(t) for t in found.inputs}
    for warmup in config.get("model_warmup", []):
        fed = {(e["key"][0], str(v["data_type"][0]), tuple(v["dims"])) for e in warmup["inputs"] for v in e["value"]}
        if fed != expected or not 1 <= warmup["batch_size"][0] <= limit:
            yield f"warm-up '{_one(warmup, 'name')}' does not fit the inputs or max_batch_size {limit}"


def _ensemble_problems(config: dict[str, list[Any]], found: Signature, others: dict[str, Any]) -> Iterator[str]:
    have = {t.name: _key(t)[1:] for t in found.inputs}
    for step in config["ensemble_scheduling"][0]["step"]:
        model = step["model_name"][0]
        if model not in others:
            yield f"step '{model}' is not in the repository"
            return
        own = configured(others[model])
        if _one(others[model], "max_batch_size", 0) < _one(config, "max_batch_size", 0):
            yield f"step '{model}' takes smaller batches"
        takes = {e["key"][0]: e["value"][0] for e in step.get("input_map", [])}
        if set(takes) != {t.name for t in own.inputs}:
            yield f"step '{model}' is fed {sorted(takes)}, it takes {sorted(t.name for t in own.inputs)}"
        for tensor in own.inputs:
            if have.get(takes.get(tensor.name, "")) != _key(tensor)[1:]:
                yield f"'{takes.get(tensor.name)}' is not there or does not fit '{tensor.name}' of step '{model}'"
        gives = {e["key"][0]: e["value"][0] for e in step.get("output_map", [])}
        if unknown := set(gives) - {t.name for t in own.outputs}:
            yield f"step '{model}' does not give {sorted(unknown)}"
        have |= {gives[t.name]: _key(t)[1:] for t in own.outputs if t.name in gives}
    for tensor in found.outputs:
        if have.get(tensor.name) != _key(tensor)[1:]:
            yield f"no step gives output '{tensor.name}' as it is promised"
