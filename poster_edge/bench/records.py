"""What a benchmark leaves behind: one record as JSON with a schema version, and its rows as a tidy table.

A row has all that is needed to understand it alone: what ran, its figures, their unit, the device, its power
mode, versions, commit and date, and whether the run was disturbed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from poster_edge.bench.energy import EnergyReport
from poster_edge.bench.environment import Environment
from poster_edge.bench.measure import Measured
from poster_edge.bench.noise import Noise
from poster_edge.bench.statistics import FEWEST, Ratio, Summary, speed_ratio, summarise

SCHEMA = 1
KIND = "poster-edge bench"


@dataclass(frozen=True)
class Answers:
    """How good a candidate's answers are.

    Attributes:
        faces: labelled faces it was asked about.
        accuracy: share of right answers; None for weights that were not trained, which mean nothing.
        accuracy_ci95: distance to the farther end of its 95 % interval.
        agreement: share of faces for which it names the baseline's class.
        named: classes that the baseline names; where it is 1, as with random weights, agreement says nothing.
    """

    faces: int
    accuracy: float | None
    accuracy_ci95: float | None
    agreement: float
    named: int


@dataclass(frozen=True)
class Row:
    """One candidate of one comparison.

    Attributes:
        model, label, runtime, precision, scope, batch, threads, device: what was timed.
        ran: what really ran, in the runtime's own words.
        file: of the bundle that it ran.
        file_mb: its size in 10^6 bytes.
        times: its figures.
        baseline: label of what it is compared with.
        ratio: how many times as fast as the baseline; None for the baseline itself.
        rounds: turns that each of the comparison took.
        rss_mib: memory of its process after the timed part; peak_rss_mib: most it ever had.
        base_mib: memory of the process before the runtime and the model were loaded.
        load_s: from name to first result.
        answers: None without labelled faces.
        stages: median ms of each stage, of scope "frame"; and "faces", their mean number.
        round_medians_ms: median of each turn, for whoever wants to look closer.
        energy: of the candidate working alone, as :mod:`poster_edge.bench.energy` reports it; None if not asked for.
    """

    model: str
    label: str
    runtime: str
    precision: str
    scope: str
    batch: int
    threads: int | None
    device: str
    ran: str
    file: str
    file_mb: float
    times: Summary
    baseline: str
    ratio: Ratio | None
    rounds: int
    rss_mib: float | None
    peak_rss_mib: float | None
    base_mib: float
    load_s: float
    answers: Answers | None = None
    stages: dict[str, float] = field(default_factory=dict)
    round_medians_ms: list[float] = field(default_factory=list)
    energy: dict[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    """One comparison: its rows, and what disturbed it."""

    rows: tuple[Row, ...]
    noise: Noise


@dataclass(frozen=True)
class Record:
    """Everything about one run of the benchmark.

    Attributes:
        environment: the machine.
        settings: what was asked for.
        groups: a comparison each.
    """

    environment: Environment
    settings: dict[str, Any]
    groups: tuple[Group, ...]

    @property
    def reasons(self) -> list[str]:
        """Why the run is noisy, each reason once; empty when it is not."""
        return list(dict.fromkeys(r for g in self.groups for r in g.noise.reasons))

    def to_json(self) -> str:
        """The record as JSON."""
        values = {
            "schema": SCHEMA,
            "kind": KIND,
            "noisy": bool(self.reasons),
            "reasons": self.reasons,
            "environment": self.environment.to_dict(),
            "settings": self.settings,
            "units": {"*_ms": "ms", "*_mib": "2^20 bytes", "file_mb": "10^6 bytes", "per_second": "images or frames"},
            "groups": [{"noise": g.noise.to_dict(), "rows": [asdict(r) for r in g.rows]} for g in self.groups],
        }
        return json.dumps(values, indent=1) + "\n"

    def to_csv(self) -> str:
        """All rows as CSV with a header, one line each."""
        return table([flat(r, g.noise, self.environment) for g in self.groups for r in g.rows])


def row(found: Measured, baseline: Measured, answers: Answers | None, energy: EnergyReport | None = None) -> Row:
    """The row of a candidate that took its turns beside a baseline."""
    candidate, opened = found.candidate, found.opened
    return Row(
        model=candidate.name,
        label=candidate.label,
        runtime=candidate.runtime,
        precision=candidate.precision,
        scope=candidate.scope,
        batch=candidate.batch,
        threads=candidate.threads,
        device=candidate.device,
        ran=opened.description,
        file=opened.file,
        file_mb=opened.file_bytes / 1e6,
        times=summarise(found.times, batch=candidate.batch),
        baseline=baseline.candidate.label,
        ratio=None if found is baseline else speed_ratio(baseline.rounds, found.rounds),
        rounds=len(found.rounds),
        rss_mib=found.memory.get("rss"),
        peak_rss_mib=found.memory.get("peak"),
        base_mib=opened.base_mib,
        load_s=opened.load_s,
        answers=answers,
        stages=found.stages,
        round_medians_ms=[float(sorted(r)[len(r) // 2]) for r in found.rounds],
        energy=energy.to_dict() if energy else None,
    )


def flat(row: Row, noise: Noise, environment: Environment) -> dict[str, Any]:
    """A row with everything beside it, as columns of a table."""
    values = asdict(row)
    times, ratio, answers = values.pop("times"), values.pop("ratio"), values.pop("answers")
    del values["round_medians_ms"]
    stages, energy = values.pop("stages"), values.pop("energy")
    return {
        **values,
        **times,
        "ratio": ratio and ratio["value"],
        "ratio_low": ratio and ratio["low"],
        "ratio_high": ratio and ratio["high"],
        **{k: answers and answers[k] for k in ("faces", "accuracy", "accuracy_ci95", "agreement", "named")},
        **{k: energy and energy[k] for k in ("gross_joules_per_face", "net_joules_per_face")},
        "energy_rails": energy and energy["total"],
        "stages_ms": " ".join(f"{k}={v:.3f}" for k, v in stages.items()),
        "noisy": noise.noisy,
        "noise": "; ".join(noise.reasons),
        "machine": environment.device,
        "cpu": environment.cpu,
        "governor": environment.governor,
        "power_mode": environment.power_mode,
        "load_1m": noise.before.load_1m,
        "system": environment.system,
        "versions": " ".join(f"{k}={v}" for k, v in environment.versions.items()),
        "commit": environment.commit,
        "date": environment.date,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Dictionaries with the same keys as CSV; floats keep five digits, None is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for values in rows:
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()})
    return out.getvalue()


def missing(rows: Sequence[Row]) -> list[str]:
    """Why figures of some rows are not there, in words."""
    calls = [r.times.calls for r in rows]
    told = {0.9: "the p90 estimate", 0.99: "p99"}
    return [
        f"{name} needs {FEWEST[share]} calls, the fewest here are {min(calls)}: a longer --duration gives more"
        for share, name in told.items()
        if min(calls) < FEWEST[share]
    ]
