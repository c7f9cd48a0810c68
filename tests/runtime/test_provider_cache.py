"""The cache of onnxruntime's TensorRT providers: private, checked before it is used, published whole."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from poster_edge.errors import UnavailableError
from poster_edge.runtime.provider_cache import ProviderCache, provider_cache_folder

KEY = {"model": "ab" * 32, "gpu": "NVIDIA H200, 9.0"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "onnxruntime"


def fill(root: Path, content: bytes = b"engine", key: dict[str, str] = KEY) -> Path:
    """What a first run leaves; returns the published folder."""
    before = set(root.glob("[!.]*"))  # a folder that is filled again keeps its name
    with ProviderCache(key, root=root) as cache:
        (cache.folder / "a.engine").write_bytes(content)
        (cache.folder / "a.timing").write_bytes(b"timing")
    after = set(root.glob("[!.]*"))
    (target,) = after - before or after
    return target


def found(root: Path, key: dict[str, str] = KEY) -> dict[str, bytes]:
    """What the next run is given."""
    with ProviderCache(key, root=root) as cache:
        return {p.name: p.read_bytes() for p in cache.folder.iterdir()}


def test_what_is_left_there_comes_back(root: Path) -> None:
    assert found(root) == {}
    target = fill(root)
    assert found(root) == {"a.engine": b"engine", "a.timing": b"timing"}
    for folder in (root, target):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(p.name for p in root.iterdir()) == [target.name]


def test_the_provider_never_has_the_cache_itself(root: Path) -> None:
    target = fill(root)
    with ProviderCache(KEY, root=root) as cache:
        assert cache.folder.parent == root
        assert cache.folder != target
        assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
        (cache.folder / "a.engine").write_bytes(b"changed")
        assert (target / "a.engine").read_bytes() == b"engine"
        assert cache.publish()
        assert (target / "a.engine").read_bytes() == b"changed"
        assert not cache.publish()
    assert found(root)["a.engine"] == b"changed"


def test_a_generous_umask_changes_nothing(root: Path) -> None:
    old = os.umask(0)
    try:
        target = fill(root)
        assert found(root)["a.engine"] == b"engine"
    finally:
        os.umask(old)
    for path in (root, target, *target.iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_every_field_of_the_key_counts(root: Path) -> None:
    fill(root)
    assert found(root, {**KEY, "gpu": "another"}) == {}
    assert found(root, {**KEY, "driver": "580"}) == {}
    assert found(root)


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "remove", "link", "index", "key", "schema", "outside", "empty", "file", "foreign"]
)
def test_what_does_not_fit_is_thrown_away(root: Path, tmp_path: Path, damage: str) -> None:
    target = fill(root)
    engine, index = target / "a.engine", target / "index.json"
    record = json.loads(index.read_text())
    (tmp_path / "elsewhere").write_bytes(b"engine")
    if damage == "flip":
        engine.write_bytes(b"enginf")
    elif damage == "truncate":
        engine.write_bytes(b"eng")
    elif damage == "remove":
        engine.unlink()
    elif damage == "link":
        engine.unlink()
        engine.symlink_to(tmp_path / "elsewhere")
    elif damage == "index":
        index.write_text("{")
    elif damage == "key":
        index.write_text(json.dumps({**record, "key": {"model": "other"}}))
    elif damage == "schema":
        index.write_text(json.dumps({**record, "schema": 99}))
    elif damage == "outside":
        files = {"../../../elsewhere": record["files"]["a.engine"]}
        index.write_text(json.dumps({**record, "files": files}))
    elif damage == "empty":
        index.write_text(json.dumps({**record, "files": ["a.engine"]}))
    elif damage == "file":
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
        target.write_bytes(b"no folder")
    else:
        target.chmod(0o777)
    assert found(root) == {}
    assert (tmp_path / "elsewhere").read_bytes() == b"engine"
    fill(root)
    assert found(root)["a.engine"] == b"engine"


def test_a_file_that_is_not_in_the_index_is_not_given(root: Path) -> None:
    target = fill(root)
    (target / "b.engine").write_bytes(b"planted")
    assert sorted(found(root)) == ["a.engine", "a.timing"]


def test_a_folder_that_others_can_write_to_is_refused(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o777)
    with pytest.raises(UnavailableError, match=r"others can write.*POSTER_EDGE_CACHE"), ProviderCache(KEY, root=root):
        pass
    root.rmdir()
    root.symlink_to(root.parent)
    with pytest.raises(UnavailableError, match="is a link"), ProviderCache(KEY, root=root):
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be used"), ProviderCache(KEY, root=tmp_path / "file" / "cache"):
        pass


def test_a_failure_keeps_nothing(root: Path) -> None:
    with pytest.raises(KeyError), ProviderCache(KEY, root=root) as cache:
        (cache.folder / "half.engine").write_bytes(b"half")
        raise KeyError
    assert list(root.iterdir()) == []


def test_leftovers_of_killed_processes_are_collected(root: Path) -> None:
    root.mkdir(parents=True, mode=0o700)
    dead, alive, young = root / ".live-999999999-aa", root / f".live-{os.getpid()}-bb", root / ".live-999999999-cc"
    hours_ago = time.time() - 7200
    for folder in (dead, alive, young):
        folder.mkdir()
        if folder != young:
            os.utime(folder, (hours_ago, hours_ago))
    found(root)
    assert {p.name for p in root.iterdir()} == {alive.name, young.name}


def test_the_oldest_go_when_there_are_many(root: Path) -> None:
    for n in range(18):
        target = fill(root, key={**KEY, "n": str(n)})
        os.utime(target, (1000 + n, 1000 + n))
    assert len(list(root.iterdir())) == 16
    assert found(root, {**KEY, "n": "0"}) == {}
    assert found(root, {**KEY, "n": "17"})


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path))
    assert provider_cache_folder() == tmp_path / "onnxruntime"
    monkeypatch.delenv("POSTER_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert provider_cache_folder() == tmp_path / "xdg" / "poster-edge" / "onnxruntime"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert provider_cache_folder() == Path.home() / ".cache" / "poster-edge" / "onnxruntime"
