"""What the jobs of ``gpu.py`` share: the record's head, its file, rows that name an error, processes of their own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Row = dict[str, Any]
#: Exit code of a group whose rows say what failed.
ROWS_SAY = 3
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def environment(device: str) -> dict[str, str]:
    """Device, versions, commit and date of a record; $COMMIT names the commit where there is no git folder."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": gpu,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": _triton_version(),
        "python": platform.python_version(),
        "commit": os.environ.get("COMMIT") or commit.stdout.strip() or "unknown",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _triton_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace a JSON file at once, so that a run which is cut short leaves the last whole one."""
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(record, indent=1) + "\n")
    fresh.replace(path)


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm())


def explain(problem: BaseException) -> str:
    """An exception in one short line."""
    lines = [line for line in str(problem).strip().splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0][:200] if lines else 'no message'}"


def attempt(what: str, job: Callable[[], Iterable[Row]], **known: Any) -> Iterator[Row]:
    """A job's rows as they come; where it fails, one more that names the error."""
    try:
        yield from job()
    except Exception as problem:
        yield {"what": what, **known, "ok": False, "note": explain(problem)}


def exact_float32() -> None:
    """Float32 products in float32, not TF32: they are what is compared with."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Group:
    """Rows that one process makes.

    Attributes:
        name: unique.
        command: arguments of Python; ``{rows}`` in them is the file that takes the rows, one JSON object a line.
        seconds: it is stopped after so long.
        after: groups that must have ended.
        variables: added to the environment.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    after: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def run_groups(
    groups: Sequence[Group], *, at_once: int, seconds: float, flush: Callable[[list[Row]], None]
) -> list[Row]:
    """Run groups side by side: a crash, or a GPU error that outlives its call, costs one group alone.

    Args:
        groups: in the order in which they start; one waits for those that it names.
        at_once: processes at a time.
        seconds: of all; what has not started by then gives a row that says so, what runs is stopped.
        flush: is given all rows whenever a group has ended.
    """
    with tempfile.TemporaryDirectory(prefix="poster-edge-") as scratch:
        return _Runner(list(groups), Path(scratch), flush).run(at_once, time.monotonic() + seconds)


class _Runner:
    def __init__(self, groups: list[Group], scratch: Path, flush: Callable[[list[Row]], None]) -> None:
        self.waiting, self.order, self.scratch, self.flush = groups, [g.name for g in groups], scratch, flush
        self.running: dict[str, tuple[subprocess.Popen[bytes], float, Group]] = {}
        self.ended: dict[str, list[Row]] = {}

    def run(self, at_once: int, end: float) -> list[Row]:
        """Until all have ended, or ``end`` in time.monotonic's seconds."""
        try:
            while (self.waiting or self.running) and time.monotonic() < end:
                self._start(at_once)
                self._collect()
                time.sleep(0.05)
        finally:
            for process, _, _ in self.running.values():
                stop(process)
        for name in list(self.running):
            self._end(name, "stopped: the time of all groups was over")
        for group in self.waiting:
            self.ended[group.name] = [{"what": group.name, "ok": None, "note": "not measured: time"}]
        self.flush(self.rows())
        return self.rows()

    def rows(self) -> list[Row]:
        """Rows of the groups that have ended, in the order of the groups."""
        return [row for name in self.order for row in self.ended.get(name, [])]

    def _start(self, at_once: int) -> None:
        for group in [g for g in self.waiting if not set(g.after) - set(self.ended)]:
            if len(self.running) >= at_once:
                return
            self.waiting.remove(group)
            command = [sys.executable, *(a.replace("{rows}", str(self._file(group.name))) for a in group.command)]
            with self._file(group.name, "log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **dict(group.variables)},
                    start_new_session=True,
                )
            self.running[group.name] = process, time.monotonic(), group

    def _collect(self) -> None:
        for name, (process, began, group) in list(self.running.items()):
            if process.poll() is not None:
                self._end(name, f"exit code {process.returncode}" if process.returncode else "")
            elif time.monotonic() - began > group.seconds:
                stop(process)
                self._end(name, f"stopped after {group.seconds:.0f} s")

    def _end(self, name: str, problem: str) -> None:
        _, began, _ = self.running.pop(name)
        file, log = self._file(name), self._file(name, "log").read_text(errors="replace")
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        if problem and problem != f"exit code {ROWS_SAY}":
            said = [line for line in log.splitlines() if line.strip()][-3:]
            rows.append({"what": name, "ok": False, "note": f"{problem}: {' | '.join(said)[-400:]}"})
        self.ended[name] = rows
        verdict = "FAILED" if any(r.get("ok") is False for r in rows) else "ok"
        print(f"[{time.monotonic() - began:5.1f} s] {name}: {len(rows)} rows, {verdict}", flush=True)
        self.flush(self.rows())

    def _file(self, name: str, suffix: str = "jsonl") -> Path:
        return self.scratch / f"{name.replace(' ', '_')}.{suffix}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def append_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as they come, one JSON object a line; returns the exit code: 0 where none failed."""
    fine = True
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()
            fine = fine and row.get("ok") is not False
    return 0 if fine else ROWS_SAY


def show(rows: list[Row]) -> None:
    """Print rows as a plain table; a column that a row lacks stays empty."""
    if not rows:
        return
    columns = list(dict.fromkeys(name for r in rows for name in r))
    values = [[r.get(name, "") for name in columns] for r in rows]
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in line] for line in values]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
