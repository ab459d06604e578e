"""Folders and zips: what is seen, what is refused, and that refusing costs no memory."""

from __future__ import annotations

import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from ovonic.adapters import filetree
from ovonic.adapters.filetree import file_tree
from ovonic.models.errors import DataError


def _zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def _refusal(source: Path) -> str:
    def read_all() -> None:
        with file_tree(source) as tree:
            for file in tree.files:
                file.read()

    with pytest.raises(DataError) as error:
        read_all()
    assert str(source) in str(error.value)
    return str(error.value)


def test_a_folder_and_its_zip_are_the_same_tree(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("b/2.png", "a/10.png", "a/9.png", "a/.DS_Store", "__MACOSX/a/._9.png", ".git/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.rglob("*"):
            packed.write(path, path.relative_to(folder))
    for source in (folder, archive):
        with file_tree(source) as tree:
            assert [str(f.path) for f in tree.files] == ["a/10.png", "a/9.png", "b/2.png"]
            assert [str(f) for f in tree.folders] == ["a", "b"]
            assert [f.read() for f in tree.files] == [b"a/10.png", b"a/9.png", b"b/2.png"]
    assert [p.name for p in tmp_path.iterdir()] in (["data", "data.zip"], ["data.zip", "data"])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd.png", "absolute"),
        ("C:/windows.png", "absolute or foreign"),
        ("a\\..\\b.png", "foreign"),
        ("a/../../b.png", "climbs"),
        ("1/2/3/4/5/6/7/8/9.png", "nested deeper"),
    ],
)
def test_path_tricks_are_refused(tmp_path: Path, name: str, fault: str) -> None:
    message = _refusal(_zip(tmp_path / "t.zip", ("fine.png", b"1"), (name, b"2")))
    assert fault in message
    assert repr(name) in message
    assert [p.name for p in tmp_path.iterdir()] == ["t.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "a link" in _refusal(_zip(tmp_path / "t.zip", (link, b"/etc/passwd")))


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        source = _zip(tmp_path / "t.zip", ("a.png", b"1"), ("a.png", b"2"))
    assert "second member" in _refusal(source)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    source = _zip(tmp_path / "t.zip", ("a.png", b"secret"))
    data = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    source.write_bytes(data)
    assert "encrypted" in _refusal(source)


def test_a_foreign_compression_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "t.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", b"1" * 1000)
    assert "compression method" in _refusal(source)


def test_an_honest_bomb_is_refused_by_its_sizes(tmp_path: Path) -> None:
    assert "bomb" in _refusal(_zip(tmp_path / "t.zip", ("a.png", bytes(30 * 2**20))))


def test_many_small_members_are_refused_by_their_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filetree, "MAX_TOTAL_BYTES", 1000)
    source = _zip(tmp_path / "t.zip", *((f"{i}.png", bytes(60)) for i in range(20)))
    assert "1200 bytes unpacked" in _refusal(source)
    monkeypatch.setattr(filetree, "MAX_FILES", 10)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(11):
        (folder / f"{i}.png").touch()
    assert "over 10 files" in _refusal(folder)


def test_a_bomb_that_lies_about_its_size_is_refused_in_little_memory(tmp_path: Path) -> None:
    """The member inflates to 200 MB and declares 1000 bytes."""
    source = _zip(tmp_path / "t.zip", ("a.png", bytes(200 * 2**20)))
    data = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + offset, 1000)
    source.write_bytes(data)
    tracemalloc.start()
    try:
        assert "cannot be read" in _refusal(source)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [0, 10, 60, -1, -20])
def test_a_truncated_zip_is_refused(tmp_path: Path, kept: int) -> None:
    whole = _zip(tmp_path / "whole.zip", ("a/b.png", b"0123456789" * 10)).read_bytes()
    source = tmp_path / "cut.zip"
    source.write_bytes(whole[:kept])
    assert "not a readable zip" in _refusal(source)


def test_a_damaged_member_is_refused_by_its_checksum(tmp_path: Path) -> None:
    source = tmp_path / "t.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a.png", b"0123456789")
    source.write_bytes(source.read_bytes().replace(b"0123456789", b"0123456780"))
    assert "'a.png': cannot be read" in _refusal(source)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "none")


def test_a_folder_linked_into_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert "linked into itself" in _refusal(tmp_path)


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert "broken link" in _refusal(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(filetree.MAX_FILE_BYTES + 1)
    assert "the limit is" in _refusal(tmp_path)
