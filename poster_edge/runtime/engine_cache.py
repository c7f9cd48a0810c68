"""TensorRT plans built on this machine, kept per user: found again, checked, rebuilt when anything differs.

A plan is a program.  It is read from here only when its record, written beside it after it was whole, names
its SHA-256 and exactly the key that is asked for; the bytes that were hashed are the bytes that are returned.

    <cache>/engines/<digest>.plan    the plan
    <cache>/engines/<digest>.json    its record: SHA-256, size, key fields, when built, when last used (its mtime)
    <cache>/engines/<digest>.lock    held while it is built
    <cache>/engines/ledger/<sha256>  plans built here that may also lie elsewhere, such as in a bundle
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.engine_key import EngineKey
from poster_edge.files import CACHE_VARIABLE, atomic_path, sweep, user_cache
from poster_edge.runtime.private_folder import UntrustedFileError, locked, open_private, read_private

#: Largest sum of all plans, in MiB.
LIMIT_VARIABLE = "POSTER_EDGE_CACHE_MIB"
LIMIT_MIB = 2048
_SCHEMA = 1
_RECORD_BYTES = 1 << 16
_LEDGER_ENTRIES = 1000
_REMEDY = f"set {CACHE_VARIABLE} to a folder of your own"
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What is known of a plan.

    Attributes:
        sha256: of its bytes.
        bytes: its size.
        built: when, in UTC.
        fields: of its key.
        schema: version of this layout.
    """

    sha256: str
    bytes: int
    built: str
    fields: dict[str, str]
    schema: int = _SCHEMA


def cache_folder() -> Path:
    """Folder of the engines: ``$POSTER_EDGE_CACHE/engines``, else ``$XDG_CACHE_HOME/poster-edge/engines``."""
    return user_cache() / "engines"


class EngineCache:
    """The plans of this user on this machine.

    Args:
        folder: where they lie; None: :func:`cache_folder`.
        limit_mib: largest sum of all plans; None: ``POSTER_EDGE_CACHE_MIB``, else 2048.  The least recently
            used ones go; a plan that has just been built stays, whatever its size.
        notify: told in one line why a plan is built, and that another process is waited for.

    Raises:
        UnavailableError: the folder is a link, another user's, or writable by others.
        UsageError: ``POSTER_EDGE_CACHE_MIB`` is no number.
    """

    def __init__(
        self, folder: Path | None = None, *, limit_mib: float | None = None, notify: Notify | None = None
    ) -> None:
        self._limit_bytes = int((_limit_mib() if limit_mib is None else limit_mib) * (1 << 20))
        self._notify: Notify = notify or (lambda _: None)
        self.folder = open_private(folder or cache_folder(), remedy=_REMEDY)
        self._ledger = open_private(self.folder / "ledger", remedy=_REMEDY)
        sweep(self.folder)
        sweep(self._ledger)

    def plan(self, key: EngineKey, build: Callable[[], bytes], *, label: str) -> bytes:
        """The plan of a key, built when there is none that can be trusted.

        Two processes that ask for the same key build once: the second waits for the first.  Where the plan
        cannot be written (a full disk), it is returned all the same and the user is told.

        Args:
            key: what is wanted.
            build: makes the plan.
            label: names it to the user: "poster-nano fp16".

        Returns:
            The plan's bytes, whose hash has been checked.
        """
        stem = key.digest
        plan, _ = self._load(key)
        if plan is not None:
            return plan

        def waiting() -> None:
            self._notify(f"another process is building the engine of {label}: waiting for it")

        with locked(self.folder / f"{stem}.lock", waiting=waiting):
            plan, reason = self._load(key)
            if plan is not None:
                return plan
            self._notify(f"building the engine of {label}: {reason}")
            self._discard(stem)
            plan = build()
            try:
                self._store(key, plan)
            except PosterEdgeError as error:
                self._notify(f"{error}; the engine runs now and is built again the next time")
        self._evict(keep=stem)
        return plan

    def timing_cache(self, flavour: str, gpu: str) -> Path:
        """Where the kernels that TensorRT timed on a GPU are kept between its builds, so that the next is quicker.

        Args:
            flavour: "tensorrt" or "tensorrt-rtx".
            gpu: its name; what TensorRT timed on another it refuses by itself.
        """
        return self.folder / f"{flavour}-{hashlib.sha256(gpu.encode()).hexdigest()[:8]}.timing"

    def find(self, key: EngineKey) -> bytes | None:
        """The plan of a key, its hash checked, or None; nothing is built."""
        return self._load(key)[0]

    def forget(self, key: EngineKey) -> None:
        """Remove the plan of a key, unless a process is at it."""
        self._remove(key.digest)

    def remember(self, sha256: str, key: EngineKey, *, size: int) -> None:
        """Note that a plan was built here, so that it is trusted where else it lies.

        Raises:
            PosterEdgeError: the note cannot be written.
        """
        _write(self._ledger / sha256, _record(sha256, size, key))

    def ledger(self, sha256: str) -> Record | None:
        """What is known of the plan with this hash, if this user built it on this machine."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            return None
        try:
            record = _parse(read_private(self._ledger / sha256, max_bytes=_RECORD_BYTES))
        except (FileNotFoundError, UntrustedFileError, ValueError):
            return None
        return record if record.sha256 == sha256 else None

    def records(self) -> dict[str, Record]:
        """Digest -> record of every plan that is here, the least recently used first."""
        found = []
        for path in self.folder.glob("*.json"):
            with suppress(OSError, UntrustedFileError, ValueError):
                found.append((path.stat().st_mtime_ns, path.stem, _parse(read_private(path, max_bytes=_RECORD_BYTES))))
        return {stem: record for _, stem, record in sorted(found, key=lambda entry: entry[:2])}

    def _load(self, key: EngineKey) -> tuple[bytes | None, str]:
        """The plan of a key, or None and the reason."""
        path = self.folder / f"{key.digest}.json"
        try:
            record = _parse(read_private(path, max_bytes=_RECORD_BYTES))
        except FileNotFoundError:
            return None, self._why_missing(key)
        except UntrustedFileError as error:
            return None, f"the record of the old one {error}"
        except ValueError:
            return None, "the record of the old one is damaged"
        if changed := differences(record.fields, key):
            return None, "the old one is of " + ", ".join(changed)
        try:
            plan = read_private(path.with_suffix(".plan"))
        except FileNotFoundError:
            return None, "the old one is gone"
        except UntrustedFileError as error:
            return None, f"the old one {error}"
        if len(plan) != record.bytes:
            return None, f"the old one has {len(plan)} bytes of {record.bytes}"
        if hashlib.sha256(plan).hexdigest() != record.sha256:
            return None, "the old one is damaged (its SHA-256 is not the recorded one)"
        with suppress(OSError):
            os.utime(path)
        return plan, ""

    def _why_missing(self, key: EngineKey) -> str:
        """What changed since the plan that is most like the one asked for."""
        changes = [differences(r.fields, key) for r in self.records().values()]
        nearest = min(changes, key=len, default=[])
        if nearest and len(nearest) <= len(fields_of(key)) // 2:
            return "none is here yet for " + ", ".join(nearest)
        return "none is here yet"

    def _store(self, key: EngineKey, plan: bytes) -> None:
        """Publish a plan, whole, then its record: a record is there only for a plan that is."""
        record = _record(hashlib.sha256(plan).hexdigest(), len(plan), key)
        _write(self.folder / f"{key.digest}.plan", plan)
        self.remember(record.sha256, key, size=record.bytes)
        _write(self.folder / f"{key.digest}.json", record)

    def _discard(self, stem: str) -> None:
        """Remove what there is of a plan, temporaries of a killed writer included; the lock must be held."""
        for path in [self.folder / f"{stem}.json", *self.folder.glob(f".*-{stem}.*"), self.folder / f"{stem}.plan"]:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _evict(self, *, keep: str) -> None:
        """Remove the least recently used plans above the limit, plans without a record, and old ledger entries."""
        records = self.records()
        total = sum(record.bytes for record in records.values())
        orphans = [p.stem for p in self.folder.glob("*.plan") if p.stem not in records]
        for stem in [*orphans, *records]:
            if stem == keep or (stem in records and total <= self._limit_bytes):
                continue
            if self._remove(stem) and stem in records:
                total -= records[stem].bytes
        with suppress(OSError):
            entries = sorted(self._ledger.glob("[0-9a-f]*"), key=lambda p: p.lstat().st_mtime_ns)
            for path in entries[:-_LEDGER_ENTRIES]:
                path.unlink()

    def _remove(self, stem: str) -> bool:
        """Remove a plan unless a process is at it."""
        lock = self.folder / f"{stem}.lock"
        with locked(lock) as held:
            if held:
                self._discard(stem)
                with suppress(OSError):
                    lock.unlink()
        return held


def _limit_mib() -> float:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else float(LIMIT_MIB)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < 1 << 40:
        raise UsageError(f"{LIMIT_VARIABLE}={text}: expected a number of MiB")
    return limit


def fields_of(key: EngineKey) -> dict[str, str]:
    """Every field of a key as text."""
    return {n: ", ".join(v) if isinstance(v, tuple) else str(v) for n, v in asdict(key).items()}


def differences(old: Mapping[str, str], key: EngineKey, *, besides: Sequence[str] = ()) -> list[str]:
    """Readable differences: "tensorrt 10.3.0 (now 10.13.0)".

    Args:
        old: fields of a plan that is there.
        key: what is wanted.
        besides: fields that may differ.
    """
    new = fields_of(key)
    changed = [n for n in {**new, **old} if old.get(n) != new.get(n) and n not in besides]
    return [f"{n} {_short(old.get(n))} (now {_short(new.get(n))})" for n in changed]


def _record(sha256: str, size: int, key: EngineKey) -> Record:
    return Record(sha256, size, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"), fields_of(key))


def _parse(text: bytes) -> Record:
    """A record from its JSON.

    Raises:
        ValueError: it is none, or of another schema.
    """
    try:
        values = json.loads(text)
        record = Record(**values)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if record.schema != _SCHEMA or not isinstance(record.fields, dict) or not isinstance(record.bytes, int):
        raise ValueError(f"schema {record.schema}")
    return record


def _write(path: Path, content: bytes | Record) -> None:
    data = content if isinstance(content, bytes) else (json.dumps(asdict(content), indent=1) + "\n").encode()
    with atomic_path(path) as temporary:
        # Before a byte is in it: whatever the umask, nobody else could have written this file.
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)


def _short(value: str | None) -> str:
    text = str(value or "none")
    return text if len(text) <= 32 else text[:12] + "…"
