"""``poster-edge kernels``: compile the fused kernels for a device that need not be here; a plugin that carries them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from poster_edge.cli.options import NamedPath

if TYPE_CHECKING:
    from poster_edge.kernels.shape import FusionShape


@click.group(name="kernels")
def command() -> None:
    """Compile the fused kernels ahead of time, list what was compiled, put them into a TensorRT plugin."""


@command.command(name="build")
@click.option("--arch", "archs", multiple=True, required=True, help="sm_87 (Jetson Orin) …; may be repeated.")
@click.option("--model", default="poster", show_default=True, help="Model whose sizes are compiled in.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "bf16", "w8a16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of weights and activations; w8a16: INT8 weights.",
)
@click.option("--ptx", is_flag=True, help="Keep the PTX beside each cubin.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--force", is_flag=True, help="Replace an earlier result.")
def build_command(*, archs: tuple[str, ...], model: str, precision: str, ptx: bool, output: Path, force: bool) -> None:
    """Compile all kernels of a model's transformer to cubins; needs Triton, but no GPU.

    The folder has a manifest with the signature, constants, shared memory, registers and SHA-256 of
    every kernel. It serves any batch and any depth of the model's sizes.
    """
    from poster_edge.cli import console
    from poster_edge.kernels.toolchain import parse_arch
    from poster_edge.optional import require

    wanted = [parse_arch(a) for a in archs]
    shape = _shape(model)
    require("triton", purpose="compile kernels ahead of time")
    from poster_edge.kernels.aot import build_folder

    entries = build_folder(
        output, shape, wanted, model=model, precision=precision, ptx=ptx, force=force, report=console.message
    )
    size = sum(e.bytes for e in entries)
    console.message(f"{output}: {len(entries)} kernels, {size / 1e6:.1f} MB, for {model} in {precision}")


@command.command(name="list")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def list_command(*, folder: Path, as_json: bool) -> None:
    """List a folder's kernels, after checking that every file is the one that was built."""
    import json
    from dataclasses import asdict

    from poster_edge.kernels.aot_loader import read_cubin, read_manifest

    shape, precision, entries = read_manifest(folder)
    for entry in entries:
        read_cubin(folder, entry)
    if as_json:
        click.echo(json.dumps([asdict(e) for e in entries], indent=1))
        return
    widths = "/".join(map(str, shape.dims))
    click.echo(f"{precision}, widths {widths}, {shape.heads} heads, {shape.per_stream} tokens a stream")
    click.echo(f"{'arch':7} {'kernel':9} {'regs':>4} {'shared':>7} {'spills':>6} {'bytes':>7}  matrix, file")
    for e in entries:
        click.echo(
            f"sm_{e.arch:<4} {e.kernel:9} {e.registers:4} {e.shared:7} {e.spills:6} {e.bytes:7}  "
            f"{e.matrix or '-'}, {e.file}"
        )


@command.command(name="plugin")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--force", is_flag=True, help="Replace an earlier result.")
def plugin_command(*, folder: Path, output: Path, force: bool) -> None:
    """Write the source of a TensorRT plugin that carries the kernels of FOLDER, for CMake.

    FOLDER is of 'kernels build'. The plugin needs TensorRT 10.3 or later; its headers are all that its build
    needs besides CUDA's. It runs the graphs of 'kernels graph'.
    """
    from poster_edge.cli import console
    from poster_edge.kernels.plugin.embed import write_plugin

    archs = write_plugin(output, folder, force=force)
    console.message(f"{output}: for {', '.join(f'sm_{a}' for a in archs)}")
    console.message(f"cmake -S {output} -B {output}/build && cmake --build {output}/build")


@command.command(name="graph")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp16", "w8a16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of the plugin; the rest of the graph is FP16, with fp32 FP32.",
)
@click.option("-o", "--output", type=NamedPath(), help="New ONNX file [default: the bundle gets the graph].")
def graph_command(*, bundle: Path, precision: str, output: Path | None) -> None:
    """Rewrite a bundle's graph for the TensorRT plugin: one node for POSTER's cross-fusion, weights packed.

    BUNDLE is of 'export --fused-op'. Only TensorRT with the plugin reads the result: in the bundle, 'run', 'eval'
    and 'bench' take it with --plugin; a file is for other programs.
    """
    from poster_edge.cli import console
    from poster_edge.cli.kernels_graph import write_graph

    path, size = write_graph(bundle, precision=precision, output=output)
    console.message(f"{path}: {size / 1e6:.1f} MB, {precision}")


def _shape(model: str) -> FusionShape:
    from poster_edge.errors import UsageError
    from poster_edge.kernels.shape import FusionShape
    from poster_edge.models.config import model_config
    from poster_edge.models.poster_config import PosterConfig

    config = model_config(model)
    if not isinstance(config, PosterConfig):
        raise UsageError(f"the fused kernels are POSTER's; {model} has no cross-fusion")
    if not config.as_published:
        raise UsageError(f"the fused kernels compute the published cross-fusion; {model} is another")
    return FusionShape(config.per_stream, config.heads, config.dims, config.mix, config.mlp_ratio)
