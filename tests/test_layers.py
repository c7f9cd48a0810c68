"""Imports go left only, and what runs on the edge never imports torch at module level."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Left to right; a layer may import itself and what stands left of it.
LAYERS = [
    "base",
    "kernels",
    "models",
    "data",
    "train",
    "export",
    "calib",
    "runtime",
    "vision",
    "pipeline",
    "bench",
    "cli",
]
BASE = {"__init__", "config", "errors", "files", "labels", "optional"}
NO_TORCH = {"base", "data", "runtime", "vision", "pipeline", "bench"}
NO_TORCH_FILES = {
    "models/base_config.py",
    "models/cf_dan_config.py",
    "models/config.py",
    "models/fer_vt_config.py",
    "models/poster_config.py",
    "models/registry.py",
    "models/resnet_config.py",
    "train/limits.py",
    "train/metrics.py",
    "train/recipe.py",
    "train/recipe_file.py",
    "calib/temperature.py",
    "export/card.py",
    "export/engine.py",
    "export/engine_key.py",
    "export/engine_network.py",
    "export/engine_report.py",
    "export/engine_spec.py",
    "export/gpu.py",
    "export/onnx_bytes.py",
    "export/tensorrt_api.py",
}


def sources() -> list[Path]:
    folders = [ROOT / "poster_edge", ROOT / "export", ROOT / "calib", ROOT / "kernels"]
    return sorted(p for f in folders for p in f.rglob("*.py"))


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    parts = parts[1:] if parts[0] == "poster_edge" else parts
    return "base" if len(parts) == 1 and Path(parts[0]).stem in BASE else parts[0].removesuffix(".py")


def imported(path: Path, *, module_level: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = _top_level(tree) if module_level else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def _top_level(tree: ast.Module) -> list[ast.stmt]:
    return [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_left(path: Path) -> None:
    if path.name == "__main__.py":
        return
    own = LAYERS.index(layer_of(path))
    for name in imported(path, module_level=False):
        if not name.startswith("poster_edge."):
            continue
        part = name.split(".")[1]
        target = "base" if part in BASE or part.startswith("__") else part
        assert target in LAYERS, f"{path} imports {name}, which is in no known layer"
        assert LAYERS.index(target) <= own, f"{path} ({layer_of(path)}) imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_edge_layers_do_not_import_torch(path: Path) -> None:
    relative = str(path.relative_to(ROOT)).removeprefix("poster_edge/")
    if layer_of(path) not in NO_TORCH and relative not in NO_TORCH_FILES:
        return
    heavy = {n for n in imported(path, module_level=True) if n.split(".")[0] in ("torch", "onnx", "safetensors")}
    assert not heavy, f"{path} imports {heavy} when it is loaded"


def test_every_source_is_seen() -> None:
    layers = {layer_of(p) for p in sources()}
    assert layers >= set(LAYERS), f"no files found for {set(LAYERS) - layers}"
