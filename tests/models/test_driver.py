"""The contract of drivers, on every driver there is; and on broken ones, each of which one check must find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovonic.adapters.recorded_chip import RecordingChip, ReplayingChip
from ovonic.models.chip import SimulatedChip
from ovonic.models.device_faults import Faults
from ovonic.models.driver import Driver
from ovonic.models.pcm import DEVICE_MODELS, device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify
from ovonic.validation.driver_contract import CHECKS, Limits, check_driver, summary

EXACT = Limits(still=0.0)


def chip(name: str = "pcm", periphery: Periphery | None = None, **options: Any) -> SimulatedChip:
    options = {"rows": 12, "columns": 10, **options}
    return SimulatedChip(2, device_model(name), periphery or Periphery(), seed=3, **options)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_simulated_chips_keep_the_contract(name: str) -> None:
    findings = check_driver(chip(name), EXACT)
    assert all(f.passed for f in findings), summary(findings)
    assert len(findings) == len(CHECKS)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 1, "columns": 1},
        {"rows": 3, "columns": 20},
        {"periphery": Periphery(read_phases=4, column_gain_sigma=0.01, column_offset_sigma=0.01)},
        {"verify": Verify(5, 1.0)},
        {"faults": Faults(device_sigma=0.05, levels=64)},
    ],
    ids=["one cell", "few rows", "periphery", "verify", "faults"],
)
def test_simulated_chips_of_all_kinds_keep_the_contract(options: dict[str, Any]) -> None:
    findings = check_driver(chip(**options), EXACT)
    assert all(f.passed for f in findings), summary(findings)


def test_an_ideal_chip_keeps_it_to_float_precision() -> None:
    exact = Limits(programming=1e-6, still=0.0, product=1e-5)
    findings = check_driver(chip("none", Periphery.ideal()), exact)
    assert all(f.passed for f in findings), summary(findings)


def test_limits_are_limits() -> None:
    problems = {
        f.check for f in check_driver(chip("pcm"), Limits(programming=0.01, still=0.0, product=0.001)) if f.problem
    }
    assert problems == {"programs to target", "multiplies what it reads", "multiplies parts"}


@pytest.mark.parametrize("name", ["none", "pcm"])
def test_recordings_and_their_replays_keep_the_contract(name: str, tmp_path: Path) -> None:
    path = tmp_path / "chip.h5"
    with RecordingChip(chip(name), path) as recording:
        assert isinstance(recording, Driver)
        findings = check_driver(recording, EXACT)
    assert all(f.passed for f in findings), summary(findings)
    replaying = ReplayingChip(path)
    assert isinstance(replaying, Driver)
    assert check_driver(replaying, EXACT) == findings
    assert replaying.position == len(replaying)
    assert replaying.counters == recording.counters


class Broken:
    """A simulated chip with one fault of its driver."""

    def __init__(self, **changes: Any) -> None:
        self.inner = chip("none", Periphery.ideal())
        self.changes = changes

    def __getattr__(self, name: str) -> Any:
        if name in self.changes:
            change = self.changes[name]
            return (lambda *given: change(self.inner, *given)) if callable(change) else change
        return getattr(self.inner, name)


def refreshes(inner: SimulatedChip, array: int, rows: Tensor, columns: Tensor, g: Tensor) -> None:
    inner.program(array, rows, columns, inner.g_max_us - g)
    inner.program(array, rows, columns, g)


def disturbs(inner: SimulatedChip, array: int, rows: Tensor, columns: Tensor, g: Tensor) -> None:
    inner.program(array, rows, columns, g)
    state = inner.states[array]
    inner.states[array] = state._replace(g_read=state.g_read * 0.999)


def writes(inner: SimulatedChip, array: int, x: Tensor, *window: Any) -> Tensor:
    y = inner.mvm(array, x, *window)
    if x.numel():
        x += 1.0
    return y


def clamps(inner: SimulatedChip, array: int, x: Tensor, *window: Any) -> Tensor:
    return inner.mvm(array, x.nan_to_num(), *window)


def ignores_rows(inner: SimulatedChip, array: int, x: Tensor, rows: slice, columns: slice, *inputs: str) -> Tensor:
    return inner.mvm(array, x, slice(0, rows.stop - rows.start), columns, *inputs)


BREAKS: list[tuple[dict[str, Any], str]] = [
    ({"rows": "12"}, "describes itself"),
    ({"g_max_us": -1.0}, "describes itself"),
    ({"counters": {}}, "describes itself"),
    ({"read": lambda inner, array: inner.read(array).double()}, "reads conductances"),
    ({"read": lambda inner, array: inner.read(array)[:, :, 1:]}, "reads conductances"),
    ({"read": lambda inner, array: -inner.read(array) - 1.0}, "reads conductances"),
    ({"read": lambda inner, array: inner.read(array).roll(1, 0)}, "programs to target"),
    ({"read": lambda inner, array: inner.read(array).flip(1)}, "programs to target"),
    ({"program": disturbs}, "leaves other devices alone"),
    ({"program": refreshes}, "programs only what changes"),
    ({"program": refreshes}, "counts what it programs"),
    ({"mvm": lambda inner, *given: -inner.mvm(*given)}, "multiplies what it reads"),
    ({"mvm": lambda inner, *given: 2.0 * inner.mvm(*given)}, "multiplies what it reads"),
    ({"mvm": lambda inner, a, x, *window: inner.mvm(a, x.abs(), *window)}, "multiplies what it reads"),
    ({"mvm": ignores_rows}, "multiplies parts"),
    ({"mvm": lambda inner, *given: inner.mvm(*given).double()}, "keeps shapes"),
    ({"mvm": lambda inner, *given: inner.mvm(*given).reshape(-1, 8)}, "keeps shapes"),
    ({"mvm": writes}, "keeps shapes"),
    ({"mvm": lambda inner, a, x, *window: (inner.mvm(a, x, *window), inner.mvm(a, x, *window))[1]}, "counts products"),
    (
        {"advance": lambda inner, s: disturbs_up(inner, s)},
        "lets time pass",
    ),
    ({"mvm": clamps}, "refuses nonsense"),
    ({"advance": lambda inner, s: inner.advance(abs(s))}, "refuses nonsense"),
    ({"read": lambda inner, array: inner.read(array % 2)}, "refuses nonsense"),
]


def disturbs_up(inner: SimulatedChip, seconds: float) -> None:
    inner.advance(seconds)
    inner.states = [state._replace(g_read=state.g_read * 1.1) for state in inner.states]


@pytest.mark.parametrize(("changes", "check"), BREAKS, ids=[f"{k} {b[1]}" for k, b in enumerate(BREAKS)])
def test_a_broken_driver_is_found_by_the_check_that_is_meant_for_it(changes: dict[str, Any], check: str) -> None:
    exact = Limits(programming=1e-6, still=0.0, product=1e-5)
    problems = {f.check: f.problem for f in check_driver(Broken(**changes), exact) if f.problem}
    assert check in problems, problems


def test_every_check_can_fail() -> None:
    assert {b[1] for b in BREAKS} == {check.__name__.replace("_", " ") for check in CHECKS}


def test_summary_names_what_failed() -> None:
    text = summary(check_driver(Broken(mvm=lambda inner, *given: -inner.mvm(*given)), EXACT))
    assert "ok   reads conductances" in text
    assert "FAIL multiplies what it reads: array 0, signed: error" in text


def test_a_chip_that_counts_nothing_passes() -> None:
    class Silent(Broken):
        @property
        def counters(self) -> Any:
            return type(self.inner.counters)()

    findings = check_driver(Silent(), EXACT)
    assert all(f.passed for f in findings), summary(findings)


def test_the_driver_of_the_page_keeps_the_contract() -> None:
    """docs/driver.md's class, on a port that is a simulated chip."""
    page = Path(__file__).parents[2] / "docs" / "driver.md"
    names: dict[str, Any] = {}
    exec(page.read_text().split("```python\n")[1].split("```")[0], names)

    class Port:
        def __init__(self) -> None:
            self.chip = chip()
            self.multiply, self.conductances, self.wait = self.chip.mvm, self.chip.read, self.chip.advance

        def pulse(self, array: int, row: int, column: int, device: int, g_us: float) -> None:
            g = self.chip.states[array].g_target[:, row, column].clone()
            g[device] = g_us
            self.chip.program(array, torch.tensor([row]), torch.tensor([column]), g[:, None])

    mine = names["MyChip"](Port())
    mine.n_arrays, mine.rows, mine.columns = 2, 12, 10
    findings = check_driver(mine, EXACT)
    assert all(f.passed for f in findings), summary(findings)
