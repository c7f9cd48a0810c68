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


def test_figures_of_the_evaluation_page_are_those_of_the_result_files() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/evaluation.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = [t.split(")")[0] for t in text.split("](")[1:]]
    files = [t.partition("#") for t in targets if "://" not in t and not t.startswith("#")]
    assert files
    assert not [path for path, _, _ in files if not (ROOT / path).exists()]
    assert not [t for path, _, t in files if t and t not in anchors(ROOT / path)]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    titles = [line.lstrip("#").strip() for line in page.read_text().splitlines() if line.startswith("#")]
    return {"".join(c for c in t.lower() if c.isalnum() or c in " -_").replace(" ", "-") for t in titles}
