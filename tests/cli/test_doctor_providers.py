"""``poster-edge doctor`` says of each of onnxruntime's ways to a GPU whether it can be taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess

from poster_edge.runtime.providers import PROVIDERS, missing


def test_doctor_lists_providers(poster_edge: Callable[..., CompletedProcess[str]]) -> None:
    done = poster_edge("doctor", "--json")
    assert done.returncode == 0, done.stderr
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    for kind in ("cuda", "tensorrt", "tensorrt-rtx"):
        provider = PROVIDERS[kind]
        check, lack = checks[f"onnxruntime: {provider.label}"], missing(provider)
        assert f"--device {kind}:0" in check["found"]
        if lack:
            assert (check["state"], check["remedy"]) == ("absent", lack[1])
            assert check["found"].startswith(lack[0])
        else:
            assert check["state"] == "ok"
    assert "onnxruntime: CPU" not in checks
