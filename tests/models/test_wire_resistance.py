"""Arrays with resistive wires: closed forms for single rows and columns, reciprocity, and badcrossbar."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.wire_resistance import effective_conductances, effective_polarities


def _g(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 25 + 0.01


def _ladder(g: list[float], wire_ohm: float) -> list[float]:
    """Currents through devices (S) along a wire from a source of 1 V, its far end open: a recurrence from that end.

    With the last device's potential taken as 1, potentials and currents follow towards the source; all scale with it.
    """
    potentials, carried = [1.0], g[-1]
    for conductance in reversed(g[:-1]):
        potentials.append(potentials[-1] + wire_ohm * carried)
        carried += conductance * potentials[-1]
    source = potentials[-1] + wire_ohm * carried
    return [c * p / source for c, p in zip(g, reversed(potentials), strict=True)]


@given(st.lists(st.floats(0.0, 25.0), min_size=1, max_size=30), st.floats(0.01, 1e4))
@settings(max_examples=50, deadline=None)
def test_one_row_or_one_column_is_a_ladder(devices: list[float], ohm: float) -> None:
    """1 x N: a ladder from the source. N x 1: the same ladder from the ground, by reciprocity. To 1e-9."""
    g = torch.tensor(devices, dtype=torch.float64)
    due = torch.tensor(_ladder([d * 1e-6 for d in devices], ohm), dtype=torch.float64) * 1e6
    torch.testing.assert_close(effective_conductances(g[None], ohm, 0.0)[0], due, rtol=1e-9, atol=1e-15)
    column = effective_conductances(g[:, None], 0.0, ohm)[:, 0]
    due = torch.tensor(_ladder([d * 1e-6 for d in devices[::-1]], ohm), dtype=torch.float64) * 1e6
    torch.testing.assert_close(column.flip(0), due, rtol=1e-9, atol=1e-15)


def test_one_device_is_in_series_with_its_two_segments() -> None:
    for row, column in ((3e3, 5e3), (0.0, 5e3), (3e3, 0.0)):
        found = effective_conductances(torch.tensor([[20.0]], dtype=torch.float64), row, column).item()
        assert found == pytest.approx(1e6 / (1e6 / 20.0 + row + column), rel=1e-12)


def test_ideal_wires_change_nothing_and_thin_ones_little() -> None:
    g = _g(2, 7, 5)
    assert effective_conductances(g, 0.0).equal(g)
    torch.testing.assert_close(effective_conductances(g, 1e-6), g, rtol=1e-6, atol=0)
    for wires in ((1.0, 0.0), (0.0, 1.0)):
        thin = effective_conductances(g, *(1e-6 * w for w in wires))
        torch.testing.assert_close(thin, g, rtol=1e-6, atol=0)
    drops = [effective_conductances(g, ohm).sum() for ohm in (1.0, 10.0, 100.0, 1000.0)]
    assert all(a > b for a, b in itertools.pairwise(drops)), "more resistance, less current"


def test_reciprocity_exchanges_sources_and_grounds() -> None:
    """Read backwards, rows for columns, the circuit is its own transpose, flipped along both axes."""
    g = _g(9, 6)
    forwards = effective_conductances(g, 70.0, 30.0)
    backwards = effective_conductances(g.T.flip(0, 1), 30.0, 70.0)
    torch.testing.assert_close(backwards.T.flip(0, 1), forwards, rtol=1e-12, atol=0)


def test_few_rows_and_few_columns_are_solved_alike() -> None:
    """The two sides that right-hand sides are taken from: an array with as many open columns or rows beside it."""
    g = _g(8, 5)
    wide = torch.cat([g, torch.zeros(8, 10, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(effective_conductances(wide, 40.0)[:, :5], effective_conductances(g, 40.0))
    assert effective_conductances(wide, 40.0)[:, 5:].abs().max() < 1e-12


def test_two_bitlines_share_their_row() -> None:
    """A bitline of open devices leaves the other as it is alone; a loaded one takes some of its current."""
    g = _g(6, 4)
    alone = effective_conductances(g, 200.0)
    beside = effective_conductances(torch.stack([g, torch.zeros_like(g)]), 200.0)
    torch.testing.assert_close(beside[0], alone)
    loaded = effective_conductances(torch.stack([g, _g(6, 4, seed=1)]), 200.0)
    assert (loaded[0] < alone).all()


def test_polarities_are_pairs_of_devices_in_parallel() -> None:
    g = _g(3, 4, 5, 4)
    plus, minus = effective_polarities(g, 60.0)
    for k in range(3):
        due = effective_conductances(torch.stack([g[k, 0] + g[k, 2], g[k, 1] + g[k, 3]]), 60.0)
        assert plus[k].equal(due[0])
        assert minus[k].equal(due[1])
    plus, minus = effective_polarities(g, 0.0)
    assert plus.equal(g[:, 0] + g[:, 2])
    assert minus.equal(g[:, 1] + g[:, 3])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (16, 24), (32, 32)])
@pytest.mark.parametrize("wires", [(1.0, 1.0), (20.0, 5.0), (3.0, 0.0), (0.0, 300.0)])
def test_it_agrees_with_badcrossbar(rows: int, columns: int, wires: tuple[float, float]) -> None:
    """Output currents for random voltages, to 1e-9 of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where its plots lack cairo
        badcrossbar = pytest.importorskip("badcrossbar", exc_type=ImportError)
    if not hasattr(badcrossbar, "compute"):
        pytest.skip("badcrossbar lacks pathvalidate")
    g = _g(rows, columns, seed=rows)
    v = np.random.default_rng(columns).uniform(-1, 1, (rows, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        due = badcrossbar.compute(v, 1e6 / g.numpy(), r_i_word_line=wires[0], r_i_bit_line=wires[1]).currents.output
    found = v.T @ effective_conductances(g, *wires).numpy() * 1e-6
    np.testing.assert_allclose(found, due, rtol=1e-9, atol=0)


def test_what_does_not_fit_is_refused() -> None:
    g = _g(3, 3)
    for ohm in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="row_ohm"):
            effective_conductances(g, ohm)
    with pytest.raises(ConfigError, match="shape"):
        effective_conductances(_g(2, 2, 3, 3), 1.0)
    with pytest.raises(ConfigError, match="finite"):
        effective_conductances(g * float("nan"), 1.0)
