"""The checks of ``poster-edge doctor`` for onnxruntime's ways to a GPU."""

from __future__ import annotations

from poster_edge.cli.checks import Check
from poster_edge.errors import UnavailableError


def provider_checks() -> list[Check]:
    """One check for each of onnxruntime's execution providers that run on a GPU."""
    try:
        from poster_edge.runtime.providers import PROVIDERS, missing, require_provider
    except ImportError:
        return []  # onnxruntime's own check says so
    checks = []
    for provider in PROVIDERS.values():
        if provider.kind == "cpu":
            continue
        name, option = f"onnxruntime: {provider.label}", f"--device {provider.kind}:0"
        if lack := missing(provider):
            checks.append(Check(name, "absent", f"{lack[0]}; needed for: {option}", lack[1]))
            continue
        try:
            gpu = require_provider(provider)
        except UnavailableError as error:
            checks.append(Check(name, "absent", str(error), "see there"))
        else:
            checks.append(Check(name, "ok", f"{option}, {gpu.name if gpu else ''}"))
    return checks
