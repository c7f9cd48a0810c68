"""The job ``gpu.py bench``: every way to compute POSTER's transformer and whole models, timed side by side.

A mode whose result is wrong gives no time.  Modes take turns, so that a clock that drifts favours none;
what torch.compile needs is compiled first, side by side, and what is not ready in time is left out.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_common import ROOT, Row, attempt, environment, exact_float32, explain, relative
from gpu_compiled import STREAMS, Compiled
from gpu_parts import MODES, Part, callable_for, expected, flops, load, nbytes, part, quiet
from gpu_time import Clock, against_floor, ceilings, peaks, percentiles

#: Shares of the time: until everything has to be compiled, and for the measurements.
_COMPILE_SHARE, _END_SHARE = 0.68, 0.93
_ROUNDS = 3
#: Seconds of a call from which on max-autotune is tried at every batch.
_LONG = 480.0
#: Seconds to wait for a GPU that is to become free.
_PATIENCE = 1800.0
_LONGEST = 0.1
_COLUMNS = ("what", "batch", "mode", "cache", "p5_ms", "p50_ms", "p95_ms", "runs", "error", "GB_s", "TFLOP_s")
_COLUMNS += ("floor_ms", "floor_share", "ok", "note")

Sampler = Callable[[bool, float], list[float]]


@dataclass
class Cell:
    """One mode of one part, with a cold or a warm L2."""

    row: Row
    cold: bool
    sample: Sampler
    flops: float
    nbytes: float
    times: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        """Some more calls; an error takes the place of the times."""
        if self.row.get("ok") is False:
            return
        try:
            self.times += self.sample(self.cold, seconds)
        except Exception as problem:
            self.row.update(ok=False, note=explain(problem))

    def finished(self, device_name: str) -> Row:
        """The row with what has been measured."""
        if not self.times or self.row.get("ok") is False:
            # Right, but without a time.
            known = self.row.get("ok") is False
            return {
                **self.row,
                "ok": False if known else None,
                "note": self.row["note"] if known else "not measured: time",
            }
        found = percentiles(self.times)
        return {**self.row, **found, **against_floor(float(found["p50_ms"]), self.flops, self.nbytes, device_name)}


class Bench:
    """All cells of one run.

    Args:
        cpu: toy size, without torch.compile, to show that it works.
        seconds: of everything.
        sweep: also try other launch settings of the fused kernels.
        wait_for: nothing is timed before this file is there: another job still has the GPU.
        flush: is given the record so far.
        began: time.monotonic() at the start of the program.
    """

    def __init__(
        self,
        *,
        cpu: bool,
        seconds: float,
        sweep: bool,
        wait_for: Path | None,
        flush: Callable[[dict[str, Any]], None],
        began: float,
    ) -> None:
        self.cpu, self.device, self.sweep, self.flush = cpu, "cpu" if cpu else "cuda", sweep, flush
        self.wait_for = wait_for
        self.began, self.seconds = began, seconds
        self.cells: list[Cell] = []
        self.other: list[Row] = []
        self.extra: dict[str, Any] = {}
        self.workers: list[Compiled] = []
        #: Graphs read their weights: they have to stay.
        self.models: dict[str, Any] = {}
        #: (what, batch) -> FLOPs, bytes, bar.
        self.work: dict[tuple[str, int], tuple[float, float, float]] = {}

    def left(self, share: float) -> float:
        """Seconds until a share of the time is over."""
        return self.began + share * self.seconds - time.monotonic()

    def run(self) -> list[Row]:
        """Compile, check, time; the workers are ended whatever happens."""
        exact_float32()
        try:
            self.start_workers()
            self.precompile()
            self.clock = Clock(self.device)
            with quiet():
                self.prepare()
            self.write()
            self.collect_workers()
            self.wait()
            with quiet():
                if not self.cpu:
                    self.extra["ceilings"] = ceilings(self.clock)
                    self.profile()
                self.write()
                self.measure()
                if self.sweep:
                    self.run_sweep()
        finally:
            for worker in self.workers:
                worker.stop()
            self.write()
        return self.rows()

    def parts(self) -> list[tuple[str, list[int]]]:
        """What is timed at which batches."""
        if self.cpu:
            return [("poster-nano transformer", [1]), ("poster-nano", [1])]
        return [("poster transformer", [1, 8, 64]), ("poster", [1, 8, 64]), ("poster-nano", [1, 8, 64])]

    def start_workers(self) -> None:
        """One process for each part that torch.compile takes; none on the CPU, where that takes minutes."""
        if self.cpu:
            return
        # Minutes each, and in each other's way: all batches only in a long call.
        tuned = (1, 8, 64) if self.seconds >= _LONG else (1,)
        wanted = [("poster transformer", batch, "max-autotune-no-cudagraphs") for batch in tuned]
        wanted += [(what, batch, "default") for what in ("poster transformer", "poster") for batch in (1, 8, 64)]
        wanted += [("poster", batch, STREAMS) for batch in (1, 8, 64)]
        wanted.append(("poster-nano", 1, "default"))
        for what, batch, mode in wanted:
            threads = 10 // len(tuned) if mode.startswith("max") else 3
            self.workers.append(Compiled(what, batch, mode, cpu=False, threads=threads))

    def precompile(self) -> None:
        """The fused kernels, on all cores."""
        if self.cpu:
            return
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, str(Path(__file__).with_name("gpu_compile.py")), f"{scratch}/rows"]
            command += ["poster:fp16,w8a16", "nano:fp16,w8a16"]
            limit = max(20.0, self.left(_COMPILE_SHARE))
            try:
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
            except subprocess.TimeoutExpired as problem:
                # What is missing is compiled when it is needed.
                self.other.append({"what": "compile the fused kernels", "ok": None, "note": explain(problem)})
                return
            rows = Path(scratch) / "rows"
            if done.returncode or not rows.exists():
                said = done.stderr.strip().splitlines()[-1:] + (rows.read_text().splitlines() if rows.exists() else [])
                self.other.append({"what": "compile the fused kernels", "ok": False, "note": " | ".join(said)[-400:]})

    def prepare(self) -> None:
        """Every mode once, compared with float32; its cells."""
        models = self.models
        for what, batches in self.parts():
            name = what.split()[0]
            for batch in batches:
                try:
                    models.setdefault(name, None)
                    models[name] = models[name] or load(name, self.device)
                    self.prepare_part(part(what, batch, models[name], self.device))
                except Exception as problem:
                    self.other.append({"what": what, "batch": batch, "ok": False, "note": explain(problem)})

    def prepare_part(self, p: Part) -> None:
        """The modes of one part."""
        reference, work = expected(p), flops(p)
        # The interpreter takes seconds for a depth: once, in the smaller part, shows that it works.
        toy = ("eager", "sdpa", "fused") if p.what.endswith("transformer") else ("eager", "sdpa")
        for mode in toy if self.cpu else MODES:
            row: Row = {"what": p.what, "batch": p.batch, "mode": mode}
            try:
                run, output = callable_for(p, mode)
                error = relative(output, reference)
                row.update(error=error, ok=error <= p.bar(mode))
                if not row["ok"]:
                    row["note"] = f"error above {p.bar(mode)}: not timed"
            except Exception as problem:
                row.update(ok=False, note=explain(problem))
                self.other.append(row)
                continue
            self.add(row, lambda cold, s, run=run: self.clock.sample(run, cold=cold, seconds=s), work, nbytes(p, mode))  # type: ignore[misc]
        self.work[p.what, p.batch] = work, nbytes(p, ""), p.bar("")

    def add(self, row: Row, sample: Sampler, work: float, size: float) -> None:
        """A mode's two cells; one on the CPU, where no cache is cleared."""
        for cold in (False,) if self.cpu else (False, True):
            label = "" if self.cpu else "cold" if cold else "warm"
            self.cells.append(Cell({**row, "cache": label}, cold, sample, work, size))

    def collect_workers(self) -> None:
        """Wait for torch.compile as long as its share of the time lasts."""
        for worker in self.workers:
            answer = worker.ready(self.left(_COMPILE_SHARE))
            what = {"what": worker.what, "batch": worker.batch}
            if "errors" not in answer:
                late = answer["note"].startswith("not measured")
                row = {**what, "mode": f"compile {worker.mode}", "ok": None if late else False, "note": answer["note"]}
                self.other.append(row)
                continue
            work, size, bar = self.work.get((worker.what, worker.batch), (0.0, 0.0, 5e-3))
            for mode, error in answer["errors"].items():
                row = {**what, "mode": mode, "error": error, "ok": error <= bar}
                row["note"] = f"compiled in {answer['seconds']:.0f} s"
                self.add(
                    row,
                    lambda cold, s, w=worker, m=mode: w.sample(m, cold=cold, seconds=s),  # type: ignore[misc]
                    work,
                    size,
                )

    def wait(self) -> None:
        """Until the GPU is free; the time for measurements begins then."""
        if self.wait_for is None:
            return
        give_up = time.monotonic() + _PATIENCE
        while not self.wait_for.exists():
            if time.monotonic() > give_up:
                sys.exit(f"{self.wait_for} did not come in {_PATIENCE / 60:.0f} minutes: nothing was measured")
            time.sleep(0.2)
        # As if all before it had just taken its share.
        self.began = max(self.began, time.monotonic() - _COMPILE_SHARE * self.seconds)

    def measure(self) -> None:
        """Rounds over all cells, each beginning elsewhere; the transformer first, should the time run out."""
        first = [what for what, _ in self.parts()]
        # Rivals beside each other, those of torch.compile too.
        order = sorted(self.cells, key=lambda c: (first.index(c.row["what"]), c.row["batch"]))
        for turn in range(1 if self.cpu else _ROUNDS):
            shift = turn * len(order) // _ROUNDS
            for done, cell in enumerate(order[shift:] + order[:shift]):
                left = self.left(_END_SHARE)
                if left <= 0:
                    return
                to_go = (_ROUNDS - turn) * len(order) - done
                # A first call, a request and the shortest sample come on top.
                cell.measure(min(_LONGEST, 0.6 * left / to_go) if not self.cpu else 0.0)
            self.write()

    def profile(self) -> None:
        """Kernel by kernel: one fused forward pass of the transformer at batch 1 and 8."""
        from gpu_sweep import profile_rows

        for batch in (1, 8):
            self.extra.setdefault("kernels", []).extend(
                attempt(f"profile batch {batch}", lambda b=batch: profile_rows(b))  # type: ignore[misc]
            )

    def run_sweep(self) -> None:
        """Other tile sizes, warps and stages of each kernel."""
        from gpu_sweep import sweep_rows

        rows = self.extra.setdefault("sweep", [])
        try:
            for row in sweep_rows(self.clock, seconds=60):
                rows.append(row)
                if len(rows) % 20 == 0:
                    self.write()
        except Exception as problem:
            rows.append({"kernel": "any", "ok": False, "note": explain(problem)})

    def rows(self) -> list[Row]:
        """All rows so far."""
        name = torch.cuda.get_device_name(0) if not self.cpu else ""
        return [*(c.finished(name) for c in self.cells), *self.other]

    def write(self) -> None:
        """Hand on what there is."""
        self.flush({"rows": self.rows(), **self.extra})


def bench(
    *,
    cpu: bool,
    seconds: float,
    sweep: bool,
    wait_for: Path | None,
    out: Path,
    flush: Callable[[dict[str, Any]], None],
    began: float,
) -> list[Row]:
    """Run the benchmark; the table is also written to ``out``/gpu_bench.csv.

    Args:
        cpu: toy size.
        seconds: of everything but the sweep.
        sweep: also sweep the launch settings, for a minute more.
        wait_for: see :class:`Bench`.
        out: folder.
        flush: takes the record so far.
        began: time.monotonic() at the start of the program.
    """
    if cpu:
        os.environ["TRITON_INTERPRET"] = "1"
    head = environment("cpu" if cpu else "cuda")
    if not cpu:
        known = peaks(head["device"])
        head["peaks"] = f"{known[1]:.3g} FLOP/s, {known[2]:.3g} B/s ({known[0]})" if known else "unknown"

    def both(record: dict[str, Any]) -> None:
        flush(record)
        write_csv(out / "gpu_bench.csv", head, record["rows"])

    return Bench(cpu=cpu, seconds=seconds, sweep=sweep, wait_for=wait_for, flush=both, began=began).run()


def summary(rows: list[Row]) -> None:
    """Print the medians in µs, a line for each part and cache, and what the best fused mode gains."""
    groups: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in rows:
        if "p50_ms" in row:
            groups.setdefault((row["what"], row["batch"], row["cache"]), {})[row["mode"]] = row["p50_ms"]
    for (what, batch, cache), modes in groups.items():
        print(f"{what}, batch {batch}, {cache}: " + ", ".join(f"{m} {1e3 * v:.0f} µs" for m, v in modes.items()))
        fused = min((v for m, v in modes.items() if m.startswith("fused")), default=None)
        rivals = [v for m, v in modes.items() if m.endswith("graph") and m.startswith(("compile", "sdpa"))]
        if fused and rivals and "eager" in modes:
            print(
                f"    fused: {modes['eager'] / fused:.1f} x eager, {min(rivals) / fused:.2f} x best of compile and SDPA"
            )


def write_csv(path: Path, head: dict[str, str], rows: list[Row]) -> None:
    """The table, each row with the record's head."""
    part_file = path.with_suffix(".part")
    with part_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *head], lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows({**{k: _short(v) for k, v in row.items()}, **head} for row in rows)
    part_file.replace(path)


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
