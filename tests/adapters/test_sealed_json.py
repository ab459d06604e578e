from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovonic.adapters.sealed_json import read_sealed, write_sealed
from ovonic.models.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CONTENTS = st.dictionaries(TEXT.filter(lambda name: name != "sha256"), VALUES, max_size=5)
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_FOLDER
@given(CONTENTS)
def test_what_was_written_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    write_sealed(tmp_path / "f", content)
    assert read_sealed(tmp_path / "f") == content


@SHARED_FOLDER
@given(CONTENTS, st.data())
def test_one_changed_byte_is_refused_or_changes_nothing(
    tmp_path: Path, content: dict[str, Any], data: st.DataObject
) -> None:
    file = tmp_path / "f"
    write_sealed(file, content)
    written = bytearray(file.read_bytes())
    written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(written)
    with contextlib.suppress(DataError):
        assert json.dumps(read_sealed(file), sort_keys=True) == json.dumps(content, sort_keys=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"1", b"\xff", b"[" * 100_000, b'{"sha256": 1}', b"1" * 5_000])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match="f: "):
        read_sealed(tmp_path / "f")
    with pytest.raises(DataError, match="absent: cannot be read"):
        read_sealed(tmp_path / "absent")


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_sealed(tmp_path / "f", {"x": float("nan")})
    assert not list(tmp_path.iterdir())
