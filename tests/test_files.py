"""Files written whole or not at all, and refused in time where they cannot be written."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest

from poster_edge.errors import PosterEdgeError
from poster_edge.files import atomic_path, check_writable, scratch_folder, sweep, write_atomic


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    check_writable(tmp_path / "new" / "folders" / "x.json", tmp_path / "file")
    for path, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "x.json", "file is no folder"),
        (tmp_path / "file" / "deep" / "x.json", "file is no folder"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(PosterEdgeError, match=words):
            check_writable(path)
    assert (tmp_path / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    # As /dev/null and /dev/stdout are; a rename over them would take them away from everybody.
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_atomic(pipe, "words")
    reader.join(10)
    assert got == ["words"]
    with pytest.raises(PosterEdgeError, match="a device or a pipe"), atomic_path(pipe):
        pytest.fail("nothing is to be written")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_collecting_leftovers_goes_through_no_link(tmp_path: Path) -> None:
    """Anybody may put a link into a folder such as /tmp."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / ".poster-edge-tmp-0-x").symlink_to(tmp_path / "precious")
    (tmp_path / "shared" / ".poster-edge-tmp-1-x").mkdir()
    (tmp_path / "shared" / ".poster-edge-tmp-1-x" / "inside").symlink_to(tmp_path / "precious")
    assert len(sweep(tmp_path / "shared", older_than_s=0)) == 2
    assert not list((tmp_path / "shared").iterdir())
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_scratch_of_killed_processes_is_collected_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as old, scratch_folder() as new:
        assert {old.parent, new.parent} == {tmp_path}
        yesterday = time.time() - 25 * 3600
        os.utime(old, (yesterday, yesterday))
        with scratch_folder():
            assert new.is_dir(), "another process may be at work in it"
            assert not old.exists()
        old.mkdir()
    assert not list(tmp_path.iterdir())
