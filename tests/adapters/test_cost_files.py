"""Cost files: TOML and JSON of one's own, and clear words for files that are none."""

from pathlib import Path

import pytest

from ovonic.adapters.cost_files import MAX_BYTES, read_costs
from ovonic.models.energy import Costs
from ovonic.models.errors import DataError

TOML = """
[programming]
pulse_energy_j = [5e-12, 8e-12, 12e-12]
iterations = 12
pulse_time_s = { low = 1e-7, typical = 2e-7, high = 5e-7, source = "our lab" }
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.toml", TOML),
        (
            "mine.json",
            '{"programming": {"pulse_energy_j": [5e-12, 8e-12, 12e-12], "iterations": 12, "pulse_time_s":'
            '{"low": 1e-7, "typical": 2e-7, "high": 5e-7, "source": "our lab"}}}',
        ),
    ],
)
def test_costs_of_ones_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    costs = read_costs(tmp_path / name)
    assert costs["programming.pulse_energy_j"].high == 12e-12
    assert costs["programming.iterations"].low == costs["programming.iterations"].high == 12
    assert costs["programming.pulse_time_s"].source == "our lab"
    changed = {n for n, value in costs if value != Costs()[n]}
    assert changed == {"programming.pulse_energy_j", "programming.iterations", "programming.pulse_time_s"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"[programming\n", "no TOML"),
        ("a.json", b"{", "no JSON"),
        ("a.json", b"[1]", "holds list; give an object"),
        ("a.json", b"[" * 100_000, "no JSON"),
        ("a.json", b'{"array": {"mvm_share": NaN}}', "array.mvm_share: low nan"),
        ("a.toml", b"[array]\nmvm_sahre = 1", "did you mean 'array.mvm_share'"),
        ("a.toml", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("a.yaml", b"array: 1", "suffix '.yaml'; costs are read from .toml and .json"),
        ("a.json", b" " * (MAX_BYTES + 1), "a file of costs has at most"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_costs(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_costs(tmp_path / "none.toml")
