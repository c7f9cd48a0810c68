"""The README shows what the result files hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_figures_are_those_of_the_result_files() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = [t.split(")")[0] for t in text.split("](")[1:]]
    files = [t for t in targets if "://" not in t and not t.startswith("#")]
    assert files
    assert not [t for t in files if not (ROOT / t).exists()]
