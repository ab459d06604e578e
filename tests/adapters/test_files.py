"""Files are whole or absent, and only regular files are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovonic.adapters.files import atomic_writer, write_atomically


def test_an_exception_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_atomically(target, "old")

    def write_and_fail() -> None:
        with atomic_writer(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_new_file_has_the_users_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    write_atomically(tmp_path / "new", "y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_folders_are_made_and_links_followed(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "file", "x")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "file")
    write_atomically(tmp_path / "link", "ä")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a" / "b" / "file").read_text(encoding="utf-8") == "ä"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomically(pipe, "through")
    reader.join(10)
    assert got == ["through"]
    assert pipe.is_fifo()


def test_a_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that rewrites a file without end is killed at several moments."""
    target = tmp_path / "file"
    program = (
        "import sys; from ovonic.adapters.files import write_atomically\n"
        "while True:\n  for c in (b'a', b'b'): write_atomically(sys.argv[1], c * 2_000_000)"
    )
    for wait in (0.0, 0.013, 0.029, 0.047):
        target.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", program, str(target)])
        deadline = time.monotonic() + 30
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = target.read_bytes()
        assert len(data) == 2_000_000
        assert data in (b"a" * 2_000_000, b"b" * 2_000_000)
