"""Task 1 of the NIR paper (Pedersen et al. 2024): one LIF neuron as a file, its exact solution, two simulators.

The file holds tau 2.5 ms, r 1, v_threshold 0.1, no v_reset; the traces have a step of 0.1 ms and 34 inputs. All three
have the same four spikes, at steps 460, 510, 710 and 760. Where they deviate from each other:

- **Norse, snnTorch against exact: integration.** Both take forward Euler steps, decay 1 - dt/tau = .96 in place of
  exp(-dt/tau) = .960789, gain .04 in place of .039211: 2 % of each input. Membranes differ by up to 5.6e-3.
- **Norse, snnTorch against exact: the reset.** The file leaves it open: the exact solution subtracts the threshold,
  both simulators set the membrane to 0. Read by one and run by the other, membranes differ by 6.2e-3.
- **Exact against a step of 0.1 ms: the moment of the spike.** The exact solution crosses the threshold within a step,
  subtracts, and integrates the rest of the step; a network subtracts at its end: 6.2e-4, in the steps after a spike.
- **snnTorch: the unit.** Its import divides the threshold by r dt/tau = .04 and leaves the input as it is, so that its
  membrane is 25 times the neuron's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ovonic.adapters.nir import load_nir, read_nir
from ovonic.models.dynamics import ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.layers import Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run

pytestmark = pytest.mark.shared

Array = NDArray[np.float64]


@pytest.fixture
def folder(shared: Path) -> Path:
    return shared / "nir"


def _ours(network: Network, x: Array) -> tuple[Array, Array]:
    """Spikes, and the membrane after the reset, which the published traces show."""
    (name,) = network.spiking
    layer = network.layers[name]
    assert isinstance(layer, Spiking)
    d, trace = layer.dynamics, run(network, torch.from_numpy(x)[None, :, None])[name]
    z, v = trace.spikes[0, :, 0], trace.membrane[0, :, 0]
    return z.numpy(), d.reset(v, z, d.threshold, d.threshold).numpy()


@pytest.mark.parametrize(
    ("trace", "convention", "reset", "unit", "agrees"),
    [
        ("norse", "norse-1.1", None, 1.0, 5e-8),
        ("norse", "norse-1.1-import", None, 1.0, 5e-8),
        ("norse", "nir-euler", "zero", 1.0, 5e-8),
        ("snntorch", "snntorch-1.0", "zero-same-step", 1.0, 5e-6),
        ("snntorch", "nir-euler", "zero", 25.0, 5e-6),
        ("exact", "nir-exact", "subtract", 1.0, 6.3e-4),
        ("exact", "nir-euler", "subtract", 1.0, 1.4e-3),
        ("exact", "nir-exact", "zero", 1.0, 6.3e-3),
    ],
)
def test_the_published_neuron(
    folder: Path, trace: str, convention: str, reset: str | None, unit: float, agrees: float
) -> None:
    """Spikes identical under every convention; the membrane to ``agrees``: rounding of float32 with the tool's own."""
    x, v, z = np.loadtxt(folder / f"lif_{trace}.csv", delimiter=",").T
    network = load_nir(folder / "lif_norse.nir", convention, reset, None if convention == "snntorch-1.0" else 0.1)
    spikes, membrane = _ours(network, x)
    assert np.flatnonzero(z).tolist() == [460, 510, 710, 760]
    np.testing.assert_array_equal(spikes, z)
    difference = np.abs(unit * membrane - v).max()
    assert agrees / 20 < difference < agrees if trace == "exact" else difference < agrees


def test_where_the_exact_solution_differs_from_its_step(folder: Path) -> None:
    """Without a spike the step is exact (1e-8: the file is float32); all that is left comes from the four spikes."""
    x, v, _ = np.loadtxt(folder / "lif_exact.csv", delimiter=",").T
    _, membrane = _ours(load_nir(folder / "lif_norse.nir", "nir-exact", "subtract", 0.1), x)
    difference = np.abs(membrane - v)
    assert difference[:460].max() < 1e-8
    assert difference[460] > 1e-4


def test_what_the_file_leaves_open_is_asked(folder: Path) -> None:
    path = folder / "lif_norse.nir"
    with pytest.raises(DataError, match=r"lif_norse.nir: a NIR graph without Ovonic's contract: .* one of nir-exact, "):
        load_nir(path)
    with pytest.raises(
        DataError, match=r"the duration of a step is not in the file, and nir-exact has none: tell dt_ms"
    ):
        load_nir(path, "nir-exact", "zero")
    with pytest.raises(DataError, match=r"node '1': its file does not say what a spike does .* 'zero': .*'subtract': "):
        load_nir(path, "nir-exact", dt_ms=0.1)
    with pytest.raises(DataError, match=r"node '1': snnTorch writes v_reset 0 whatever its reset"):
        load_nir(path, "snntorch-1.0")
    with pytest.raises(DataError, match=r"node '1': Norse 1.1 reads every LIF with a reset to 0: leave reset out"):
        load_nir(path, "norse-1.1", "subtract", 0.1)
    with pytest.raises(ConfigError, match=r"convention 'nir_exact': did you mean 'nir-exact'\?"):
        load_nir(path, "nir_exact")
    with pytest.raises(ConfigError, match=r"reset 'substract': did you mean 'subtract'\?"):
        load_nir(path, "nir-exact", "substract", 0.1)


def test_what_the_neuron_is(folder: Path) -> None:
    reading = read_nir(folder / "lif_norse.nir", "nir-exact", "subtract", 0.1)
    layer = reading.network.layers["1"]
    assert isinstance(layer, Spiking)
    assert reading.mended == ()
    assert layer.dynamics.reset == SubtractThreshold(When.SAME_STEP)
    assert layer.dynamics.decay == pytest.approx(np.exp(-0.04))
    assert layer.dynamics.gain == pytest.approx(1 - np.exp(-0.04))
    given = load_nir(folder / "lif_norse.nir", "nir-exact", ResetToValue(-0.05), 0.1).layers["1"]
    assert isinstance(given, Spiking)
    assert given.dynamics.reset == ResetToValue(-0.05)
