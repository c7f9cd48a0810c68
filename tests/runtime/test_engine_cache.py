"""The cache of TensorRT plans: nothing but a whole plan of exactly the key that was asked for comes out of it."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.engine_key import EngineKey
from poster_edge.export.tensorrt_api import TensorRt
from poster_edge.runtime.engine_cache import EngineCache, cache_folder, fields_of
from poster_edge.runtime.private_folder import locked

CHILDREN = Path(__file__).with_name("engine_children.py")
KEY: EngineKey = runpy.run_path(str(CHILDREN))["KEY"]
#: Another value for each field of a key.
OTHERS: dict[str, object] = {
    f.name: ("9.9",) if isinstance(getattr(KEY, f.name), tuple) else 99 if f.name == "layout" else "other"
    for f in fields(KEY)
}


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: every publish waits six times for the disk, which is not what is tested."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def refuse() -> bytes:
    raise AssertionError("a plan was built although a good one is there")


class Built:
    """A cache in a folder, whose builds are counted and whose messages are kept."""

    def __init__(self, folder: Path, *, limit_mib: float | None = None) -> None:
        self.lines: list[str] = []
        self.builds = 0
        self.cache = EngineCache(folder, limit_mib=limit_mib, notify=self.lines.append)

    def __call__(self, key: EngineKey | None = None, *, content: bytes = b"plan " * 1000) -> bytes:
        def build() -> bytes:
            self.builds += 1
            return content

        return self.cache.plan(key or KEY, build, label="nano fp16")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "engines")


def plan_file(built: Built, key: EngineKey | None = None) -> Path:
    return built.cache.folder / f"{(key or KEY).digest}.plan"


def test_a_plan_is_built_once(built: Built) -> None:
    first = built()
    assert built(content=b"another") == first
    assert built.builds == 1
    assert built.lines == ["building the engine of nano fp16: none is here yet"]
    record = json.loads(plan_file(built).with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(first).hexdigest()
    assert record["bytes"] == len(first)
    assert record["fields"] == fields_of(KEY)
    noted = built.cache.ledger(record["sha256"])
    assert noted is not None
    assert noted.fields == record["fields"]
    assert built.cache.ledger("0" * 64) is None
    assert built.cache.ledger("../" + record["sha256"]) is None


def test_nobody_else_can_read_or_write_it(built: Built) -> None:
    old = os.umask(0)
    try:
        cache = Built(built.cache.folder.parent / "new" / "deep")
        cache()
    finally:
        os.umask(old)
    for path in [cache.cache.folder.parent, cache.cache.folder, *cache.cache.folder.rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def replace_by_hard_link(path: Path) -> None:
    path.with_name("elsewhere").hardlink_to(path)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (flip, "damaged"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "4999 bytes of 5000"),
    "empty": (lambda p: p.write_bytes(b""), "0 bytes of 5000"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "5001 bytes of 5000"),
    "gone": (lambda p: p.unlink(), "is gone"),
    "symbolic link": (replace_by_link, "cannot be opened"),
    "hard link": (replace_by_hard_link, "somebody else"),
    "writable by others": (lambda p: p.chmod(0o666), "somebody else"),
    "a pipe": (replace_by_pipe, "no plain file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "no plain file"),
    "no record": (lambda p: p.with_suffix(".json").unlink(), "none is here yet"),
    "record not JSON": (lambda p: p.with_suffix(".json").write_text("{"), "record of the old one is damaged"),
    "record empty list": (lambda p: p.with_suffix(".json").write_text("[]"), "record of the old one is damaged"),
    "record deep": (lambda p: p.with_suffix(".json").write_text("[" * 60000), "record of the old one is damaged"),
    "record huge": (lambda p: p.with_suffix(".json").write_text(" " * 70000), "more than 65536"),
    "record a link": (lambda p: replace_by_link(p.with_suffix(".json")), "cannot be opened"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_was_changed_is_built_again(built: Built, name: str) -> None:
    good = built()
    change, words = DAMAGE[name]
    change(plan_file(built))
    if name == "a folder":
        # It cannot be replaced, so the plan runs without being kept, and that is said.
        assert built() == good
        assert "cannot write" in built.lines[-1]
        return
    assert built() == good
    assert built.builds == 2
    assert words in built.lines[1]
    assert built(content=b"") == good
    assert built.builds == 2


@pytest.mark.parametrize("name", OTHERS)
def test_each_field_of_the_key_counts(built: Built, name: str) -> None:
    built()
    key = replace(KEY, **{name: OTHERS[name]})
    assert built(key, content=b"new") == b"new"
    old, new = fields_of(KEY)[name], fields_of(key)[name]
    short = old if len(old) < 33 else old[:12] + "…"
    assert built.lines[-1].endswith(f"none is here yet for {name} {short} (now {new})")
    assert built.cache.plan(KEY, refuse, label="old one") != b"new"


@pytest.mark.parametrize("name", [*OTHERS, "added"])
def test_a_record_of_another_key_under_this_name_is_stale(built: Built, name: str) -> None:
    built()
    path = plan_file(built).with_suffix(".json")
    record = json.loads(path.read_text())
    record["fields"][name] = "other"
    path.write_text(json.dumps(record))
    assert built(content=b"new") == b"new"
    assert f"the old one is of {name} other (now " in built.lines[-1]


def test_a_record_that_lacks_a_field_is_stale(built: Built) -> None:
    built()
    path = plan_file(built).with_suffix(".json")
    record = json.loads(path.read_text())
    del record["fields"]["driver"]
    path.write_text(json.dumps(record))
    assert built(content=b"new") == b"new"
    assert "the old one is of driver none (now 540.4)" in built.lines[-1]


def test_a_plan_from_elsewhere_is_not_taken(built: Built, tmp_path: Path) -> None:
    """Copied in with a record that fits it: the key in the record is not this machine's."""
    other = Built(tmp_path / "other machine")
    foreign = replace(KEY, gpu="RTX 5090")
    other(foreign, content=b"foreign")
    for path in other.cache.folder.glob(f"{foreign.digest}.[pj]*"):
        (built.cache.folder / path.name.replace(foreign.digest, KEY.digest)).write_bytes(path.read_bytes())
    for path in built.cache.folder.glob("*.*"):
        path.chmod(0o600)
    assert built(content=b"ours") == b"ours"
    assert "gpu RTX 5090 (now Orin)" in built.lines[-1]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(mode)
    with pytest.raises(UnavailableError, match=f"others can write to it .mode {mode:04o}.*POSTER_EDGE_CACHE"):
        EngineCache(tmp_path / "engines")
    (tmp_path / "mine" / "ledger").mkdir(parents=True, mode=0o700)
    (tmp_path / "mine" / "ledger").chmod(mode)
    with pytest.raises(UnavailableError, match="ledger: others can write"):
        EngineCache(tmp_path / "mine")


def test_a_folder_that_others_can_read_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir(mode=0o755)
    EngineCache(tmp_path / "engines")
    assert stat.S_IMODE((tmp_path / "engines").stat().st_mode) == 0o700


def test_a_link_or_a_file_or_another_users_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "dangling", "file", "file/engines"):
        with pytest.raises(UnavailableError, match="POSTER_EDGE_CACHE"):
            EngineCache(tmp_path / name)
    if os.geteuid() == 0:
        os.chown(tmp_path / "real", 65534, 65534)
        foreign = tmp_path / "real"
    else:
        foreign = Path("/usr")
    with pytest.raises(UnavailableError, match="belongs to user"):
        EngineCache(foreign)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_plan_is_not_read(built: Built) -> None:
    built()
    os.chown(plan_file(built), 65534, 65534)
    assert built(content=b"ours") == b"ours"
    assert "somebody else" in built.lines[-1]


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POSTER_EDGE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in (("/xdg", "/xdg/poster-edge/engines"), ("relative", f"{tmp_path}/.cache/poster-edge/engines")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path(folder)
    monkeypatch.setenv("POSTER_EDGE_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own" / "engines"


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    built = Built(tmp_path / "engines", limit_mib=3)
    keys = [replace(KEY, driver=str(i)) for i in range(5)]
    for i, key in enumerate(keys[:3]):
        built(key, content=bytes([i]) * (1 << 20))
        os.utime(plan_file(built, key).with_suffix(".json"), (1000 + i, 1000 + i))
    built(keys[0])  # used again: now the second is the oldest
    built(keys[3], content=b"\3" * (1 << 20))
    assert [plan_file(built, k).exists() for k in keys[:4]] == [True, False, True, True]
    with locked(built.cache.folder / f"{keys[2].digest}.lock"):  # somebody is at it: it stays
        built(keys[4], content=b"\4" * (2 << 20))
    assert [plan_file(built, k).exists() for k in keys] == [False, False, True, False, True]
    big = replace(KEY, driver="big")
    assert len(built(big, content=b"x" * (4 << 20))) == 4 << 20
    assert [p.stem for p in built.cache.folder.glob("*.plan")] == [big.digest]
    assert [p.stem for p in built.cache.folder.glob("*.lock")] == [big.digest]
    assert list(built.cache.records()) == [big.digest]


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv("POSTER_EDGE_CACHE_MIB", text)
    with pytest.raises(UsageError, match="POSTER_EDGE_CACHE_MIB"):
        EngineCache(tmp_path / "engines")


def test_a_failed_build_leaves_nothing(built: Built) -> None:
    def fail() -> bytes:
        raise PosterEdgeError("the parser refuses the graph")

    with pytest.raises(PosterEdgeError, match="parser"):
        built.cache.plan(KEY, fail, label="nano")
    assert not built.cache.records()
    assert built()
    assert built.builds == 1


def child(*arguments: object) -> subprocess.Popen[str]:
    """A program of engine_children.py."""
    words = [sys.executable, str(CHILDREN), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_build_once(tmp_path: Path) -> None:
    children = [child("build_once", tmp_path / "engines", tmp_path / "log") for _ in range(2)]
    ended = [c.communicate(timeout=120) for c in children]
    assert [c.returncode for c in children] == [0, 0], ended
    assert {out.strip() for out, _ in ended} == {hashlib.sha256(b"plan" * 100_000).hexdigest()}
    assert sorted((tmp_path / "log").read_text().splitlines()) == [
        "another process is building the engine of nano: waiting for it",
        "building the engine of nano: none is here yet",
        "built",
    ]


def test_two_processes_with_nvidias_builder(tmp_path: Path, tiny_bundle: Path, rtx: TensorRt) -> None:
    children = [child("build_rtx", tmp_path / "engines", tiny_bundle / "model.onnx") for _ in range(2)]
    ended = [c.communicate(timeout=300) for c in children]
    assert [c.returncode for c in children] == [0, 0], ended
    hashes = {out.splitlines()[-1] for out, _ in ended}
    (plan,) = (tmp_path / "engines").glob("*.plan")
    assert hashes == {hashlib.sha256(plan.read_bytes()).hexdigest()}
    assert "".join(out for out, _ in ended).count("building the engine of tiny: none is here yet") == 1
    assert plan.read_bytes()[:4] == b"vtrt"


def test_a_killed_builder_frees_the_next(tmp_path: Path) -> None:
    first = child("build_for_ever", tmp_path / "engines")
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    waiter = child("wait_for_it", tmp_path / "engines")
    assert waiter.stdout is not None
    assert "waiting for it" in waiter.stdout.readline()
    first.kill()
    out, err = waiter.communicate(timeout=60)
    assert out.splitlines()[-1] == "5", err
    first.communicate()


def test_kill_at_any_moment_of_a_publish(tmp_path: Path) -> None:
    process = child("kills", tmp_path / "engines", 40)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["wrong"] == 0, report
    assert report["read"] > 0, report
    assert report["temporaries"] + report["no record"] >= 5, f"the kills missed the publishing: {report}"
    assert report["temporaries left"] == 0, report
    assert report["plans left"] == report["records left"], report


def test_a_full_disk_is_said_and_the_plan_runs(tmp_path: Path) -> None:
    old = Built(tmp_path / "engines")
    kept = replace(KEY, driver="old")
    old(kept, content=b"old" * 1000)
    process = child("full_disk", tmp_path / "engines")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "File too large" in out
    assert "built again the next time" in out
    assert old.cache.plan(kept, refuse, label="old one") == b"old" * 1000
    assert not list((tmp_path / "engines").glob(".poster-edge-tmp-*"))
    assert not plan_file(old).exists()


def test_a_record_that_cannot_be_written_leaves_no_plan_that_counts(tmp_path: Path) -> None:
    """The next process builds again and takes the place."""
    process = child("disk_fills", tmp_path / "engines")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "cannot write" in out
    built = Built(tmp_path / "engines")
    assert not built.cache.records()
    assert built(content=b"z") == b"z"
    assert plan_file(built).read_bytes() == b"z"


def test_an_old_lock_file_is_no_lock(built: Built) -> None:
    (built.cache.folder / f"{KEY.digest}.lock").touch()
    began = time.monotonic()
    built()
    assert time.monotonic() - began < 10
    assert built.lines == ["building the engine of nano fp16: none is here yet"]
