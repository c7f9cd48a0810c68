"""Every attribute of TensorRT that our code uses exists in the installed TensorRT-RTX.

mypy holds the code against stubs of TensorRT 10.13; this follows the types of expressions through the source,
with the signatures that pybind11 writes into docstrings, and holds each attribute against the real classes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poster_edge.export.tensorrt_api import TensorRt, TensorRtModule

ROOT = Path(__file__).resolve().parents[2]
_RETURNS = re.compile(r"-> (?:tensorrt_rtx_bindings\.tensorrt_rtx\.|nvonnxparser::I)?(\w+)")
_MARK = "tensorrt_api import"


def sources() -> list[Path]:
    folders = [ROOT / "export", ROOT / "poster_edge"]
    return sorted(p for f in folders for p in f.rglob("*.py") if _MARK in p.read_text() or p.name == "tensorrt_api.py")


class Checker(ast.NodeVisitor):
    """Follows the types of TensorRT's objects through one file and notes every attribute taken of one."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.known: dict[str, str] = {}
        self.used: set[tuple[str, str]] = set()

    def visit_Module(self, node: ast.Module) -> None:
        for function in (n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)):
            if function.returns is not None and (kind := annotated(ast.unparse(function.returns))):
                self.known[function.name] = f"-> {kind}"
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.known)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if argument.annotation is not None and (kind := annotated(ast.unparse(argument.annotation))):
                self.known[argument.arg] = kind
        self.generic_visit(node)
        self.known = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        if isinstance(node.targets[0], ast.Name):
            self.bind(node.targets[0].id, node.value)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.bind_loops(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.bind_loops(node)

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name) and (kind := self.element(node.iter)):
            self.known[node.target.id] = kind
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if kind := self.type_of(node.value):
            self.used.add((kind, node.attr))

    def bind_loops(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for loop in node.generators:
            if isinstance(loop.target, ast.Name) and (kind := self.element(loop.iter)):
                self.known[loop.target.id] = kind
        self.generic_visit(node)

    def bind(self, name: str, value: ast.expr) -> None:
        if kind := self.type_of(value):
            self.known[name] = kind
        elif isinstance(value, ast.ListComp) and (kind := self.type_of(value.elt)):
            self.known[name] = f"list {kind}"

    def element(self, node: ast.expr) -> str:
        kind = self.known.get(node.id, "") if isinstance(node, ast.Name) else ""
        return kind.removeprefix("list ") if kind.startswith("list ") else ""

    def type_of(self, node: ast.expr) -> str:
        """Class of an expression, "class X" for the class itself, "module", or "" where it is none of TensorRT's."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id, "")
        if isinstance(node, ast.Call):
            called = self.type_of(node.func)
            return called.removeprefix("class ") if called.startswith("class ") else called.removeprefix("-> ")
        if isinstance(node, ast.Attribute):
            return self.attribute(self.type_of(node.value), node.attr)
        return ""

    def attribute(self, owner: str, name: str) -> str:
        if owner == "TensorRt":
            ours = {"module": "module", "builder": "-> Builder", "runtime": "-> Runtime", "logger": "ILogger"}
            return ours.get(name, "")
        if owner == "module":
            return f"class {name}"
        kind = getattr(self.module, owner.removeprefix("class "), None)
        member = getattr(kind, name, None)
        text = (member.fget.__doc__ if isinstance(member, property) else getattr(member, "__doc__", "")) or ""
        found = _RETURNS.search(text)
        if found is None or not hasattr(self.module, found[1]):
            return ""
        return found[1] if isinstance(member, property) else f"-> {found[1]}"


def annotated(text: str) -> str:
    """What an annotation means: ``trt.ILayer`` and ``dict[str, trt.ILayer]`` are both followed as one."""
    text = text.strip("\"'")
    if text == "TensorRt":
        return text
    if text == "TensorRtModule":
        return "module"
    found = re.fullmatch(r"trt\.(\w+)(?: \| None)?", text)
    return found[1] if found else ""


def uses(rtx: TensorRt) -> Iterator[tuple[str, str, str]]:
    for path in sources():
        checker = Checker(rtx.module)
        checker.visit(ast.parse(path.read_text()))
        for kind, name in sorted(checker.used):
            yield str(path.relative_to(ROOT)), kind, name


def test_every_attribute_exists_in_rtx(rtx: TensorRt) -> None:
    found = list(uses(rtx))
    missing = [(path, kind, name) for path, kind, name in found if not exists(rtx, kind, name)]
    assert missing == []
    seen = {(kind, name) for _, kind, name in found}
    assert len(seen) > 40
    # The ends of long chains: the types were followed all the way.
    assert {
        ("INetworkDefinition", "get_layer"),
        ("ILayer", "get_output"),
        ("ITensor", "dtype"),
        ("ParserError", "node_name"),
        ("IBuilderConfig", "progress_monitor"),
        ("IOptimizationProfile", "set_shape"),
        ("ICudaEngine", "create_engine_inspector"),
        ("class ProfilingVerbosity", "DETAILED"),
    } <= seen


def exists(rtx: TensorRt, kind: str, name: str) -> bool:
    if kind == "TensorRt":
        return hasattr(rtx, name)
    if kind == "module":
        return hasattr(rtx.module, name)
    return hasattr(getattr(rtx.module, kind.removeprefix("class ")), name)


def test_every_name_of_the_module_is_in_rtx(rtx: TensorRt) -> None:
    names = [n for n in TensorRtModule.__annotations__ if not n.startswith("_")]
    assert len(names) > 10
    assert [n for n in [*names, "nptype"] if not hasattr(rtx.module, n)] == []


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(x: trt.ILayer): x.get_output(0).dtype.colour", ("DataType", "colour")),
        ("def f(t: TensorRt):\n n = t.builder().create_network(0)\n n.nothing()", ("INetworkDefinition", "nothing")),
        ("def f(t: TensorRt): t.module.BuilderFlag.INT8", ("class BuilderFlag", "INT8")),
    ],
    ids=["chain", "variable", "enum"],
)
def test_a_wrong_attribute_is_found(rtx: TensorRt, source: str, missing: tuple[str, str]) -> None:
    checker = Checker(rtx.module)
    checker.visit(ast.parse(source))
    assert [use for use in checker.used if not exists(rtx, *use)] == [missing]
