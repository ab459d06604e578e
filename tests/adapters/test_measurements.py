"""A lab's CSV: read as documented, refused with line and column, bounded, and never an error that is not ours."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ovonic.adapters.measurements as measurements
from ovonic.adapters.measurements import read_measurements
from ovonic.models.device_regressions import OverTime
from ovonic.models.errors import DataError
from ovonic.models.pulse_fit import OverPulses

GOOD = "device,time_s,g_us,g_target_us\na,20,5,6\na,40,4.5,6\nb,20,3,3\nb,50,2.5,3\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "lab.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t").replace("\n", "\r\n"),
        "# of 2026\n\n" + GOOD,
        "G_US,note,Device,TIME_S,g_target_us\n5,x,a,20,6\n3,,b,20,3\n4.5,,a,40,6\n2.5,y,b,50,3\n",
    ],
)
def test_over_time_in_every_dialect(tmp_path: Path, text: str) -> None:
    data = read_measurements(write(tmp_path, text))
    assert isinstance(data, OverTime)
    assert data.names == ("a", "b")
    assert data.device.tolist() == [0, 0, 1, 1]
    assert data.time_s.tolist() == [20, 40, 20, 50]
    assert data.g_us.tolist() == [5, 4.5, 3, 2.5]
    assert data.target_us is not None
    assert data.target_us.tolist() == [6, 3]


def test_over_pulses_and_without_targets(tmp_path: Path) -> None:
    data = read_measurements(write(tmp_path, "device,pulse,g_us\nx,0,0.1\nx,1,2\n"))
    assert isinstance(data, OverPulses)
    assert data.pulse.tolist() == [0, 1]
    plain = read_measurements(write(tmp_path, "device,time_s,g_us\nx,1,1\nx,2,1\n"))
    assert isinstance(plain, OverTime)
    assert plain.target_us is None


HEAD = "device,time_s,g_us\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; the first line names the columns"),
        ("device,time_s,g_us\n", "no measurement after"),
        ("device,g_us\na,1\n", "line 1: column time_s or pulse is missing"),
        ("device,tims_s,g_us\na,1,1\n", "column time_s or pulse is missing: did you mean 'tims_s'?"),
        ("device,time_s,pulse,g_us\n", "line 1: columns time_s and pulse: give one"),
        ("device,time_s,g_us,g_us\n", "line 1, column 'g_us': named twice"),
        (HEAD + "a,1\n", "line 2: 2 fields where the first line names 3"),
        (HEAD + "a,1,2\na,2,nan\n", "line 3, column 'g_us': 'nan' is not a finite number"),
        (HEAD + "a,1,inf\n", "line 2, column 'g_us': 'inf'"),
        (HEAD + "a,1,\n", "line 2, column 'g_us': '' is not a finite number (empty)"),
        (HEAD + "a,1,1_0\n", "line 2, column 'g_us': '1_0'"),
        (HEAD + "a,1,1e400\n", "line 2, column 'g_us': '1e400'"),
        (HEAD + "a,1,-0.2\n", "line 2, column 'g_us': -0.2 uS; a conductance lies in 0..1e+06"),
        (HEAD + "a,1,2e6\n", "line 2, column 'g_us': 2e+06 uS"),
        (HEAD + "a,0,1\n", "line 2, column 'time_s': 0 s; times count from programming"),
        (HEAD + "a,2,1\nb,1,1\na,1,1\n", "line 4, column 'time_s': 1 after 2 of device 'a': must rise"),
        (HEAD + "a,2,1\na,2,1\n", "line 3, column 'time_s': 2 after 2"),
        (HEAD + "a,1,1\na,2,1\nb,1,1\n", "line 4, column 'time_s': device 'b' has one measurement"),
        (HEAD + ",1,1\n", "line 2, column 'device': ''"),
        (HEAD + "a\x00,1,1\n", "line 2"),
        (HEAD + '"a,1,1\n', "line 2: no line of CSV"),
        ("device,pulse,g_us\na,1.5,1\n", "line 2, column 'pulse': 1.5; a whole number"),
        ("device,pulse,g_us\na,-1,1\n", "line 2, column 'pulse': -1"),
        ("device,time_s,g_us,g_target_us\na,1,1,5\na,2,1,6\n", "line 3, column 'g_target_us': 6, but 5 earlier"),
        (HEAD.encode() + b"a\xff,1,1\n", "line 2: not UTF-8 at byte 1"),
        (HEAD + "a" * 5000 + ",1,1\n", "line 2: longer than 4096 bytes"),
        (b"\x1f\x8b\x08" + bytes(range(256)), "not UTF-8"),
    ],
)
def test_damage_is_named_by_line_and_column(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_measurements(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_measurements(tmp_path / "none.csv")
    with pytest.raises(DataError, match="directory"):
        read_measurements(tmp_path)


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [
        ("MAX_ROWS", 3, "line 5: more than 3 measurements"),
        ("MAX_DEVICES", 1, "line 4, column 'device': more than 1 devices"),
        ("MAX_BYTES", 40, "measurements have at most 40"),
    ],
)
def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, message: str) -> None:
    monkeypatch.setattr(measurements, bound, value)
    with pytest.raises(DataError, match=message):
        read_measurements(write(tmp_path, GOOD))


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "endless.csv"
    with path.open("wb") as file:
        file.truncate(1 << 29)  # sparse: half a gigabyte of NUL
    with pytest.raises(DataError, match="line 1: longer than 4096 bytes"):
        read_measurements(path)


names = st.text("abcdefgh0123", min_size=1, max_size=4)
rows = st.dictionaries(
    names, st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=5, unique=True).map(sorted), min_size=1, max_size=5
)


@given(rows, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_in_any_order_of_devices(
    tmp_path: Path, times: dict[str, list[float]], random
) -> None:  # type: ignore[no-untyped-def]
    turns = [name for name, own in times.items() for _ in own]
    random.shuffle(turns)
    left = {name: list(own) for name, own in times.items()}
    lines = [f"{name},{left[name].pop(0)!r},1.5" for name in turns]
    data = read_measurements(write(tmp_path, "\n".join(["device,time_s,g_us", *lines])))
    assert isinstance(data, OverTime)
    assert {n: data.time_s[data.device == k].tolist() for k, n in enumerate(data.names)} == times
    assert np.all(np.diff(data.device) >= 0)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path: Path, junk: bytes) -> None:
    for text in (junk, HEAD.encode() + junk, GOOD.encode()[: len(junk)] + junk):
        with contextlib.suppress(DataError):
            read_measurements(write(tmp_path, text))


@given(st.lists(st.text('a1.,;"\n\t -enif', max_size=12), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nearly_csv_is_read_or_refused(tmp_path: Path, lines: list[str]) -> None:
    try:
        data = read_measurements(write(tmp_path, HEAD + "\n".join(lines)))
    except DataError:
        return
    assert isinstance(data, OverTime)
    assert np.isfinite(data.g_us).all()
    assert (data.g_us >= 0).all()
