"""Random networks hold every pair of features and spike; our engine and every toolchain honour or refuse them."""

from __future__ import annotations

import itertools

import pytest
import torch

from ovonic.adapters.toolchains import TOOLCHAINS, Unsupported, refuse
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError
from ovonic.models.simulation import run
from ovonic.validation import conformance as module
from ovonic.validation.conformance import ENGINE, conformance
from ovonic.validation.random_networks import ACTIVE, FEATURES, active_share, features, random_network


def test_every_pair_of_levels_is_held() -> None:
    """Within as many networks as there are pairs; whatever is drawn besides."""
    levels = [[(name, level) for level in values] for name, values in FEATURES.items()]
    due = {frozenset(p) for one, other in itertools.combinations(levels, 2) for p in itertools.product(one, other)}
    due = {p for p in due if not (("recurrence", "none") in p and "recurrent delay" in dict(p))}
    held = {frozenset(p) for i in range(len(due)) for p in itertools.combinations(features(i).items(), 2)}
    assert len(due) > 1000
    assert due <= held


def test_a_number_gives_a_network_for_ever() -> None:
    a, b = random_network(7, seed=3), random_network(7, seed=3)
    assert a.network == b.network
    assert torch.equal(a.inputs, b.inputs)
    assert random_network(8, seed=3).network != a.network
    assert random_network(7, seed=4).network != a.network


def test_networks_spike() -> None:
    shares = []
    for index in range(80):
        case = random_network(index, seed=1)
        trace = run(case.network, case.inputs)
        shares.append(min(active_share(layer.spikes) for layer in trace.layers.values()))
    assert sum(share >= ACTIVE for share in shares) >= 0.9 * len(shares)
    assert sum(shares) / len(shares) > ACTIVE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_engine_conforms(dtype: torch.dtype) -> None:
    calls = []
    found = conformance(ENGINE, 60, seed=2, dtype=dtype, on_network=lambda: calls.append(1))
    assert found.conforms
    assert found.refused_networks == 0
    assert found.exact + len(found.undecidable) == 60
    assert found.exact >= (58 if dtype == torch.float64 else 50)
    assert found.active >= 54
    assert len(calls) == 60


class _Broken:
    """A toolchain that ignores resets in silence, refuses read-outs, and stumbles over pooling."""

    @staticmethod
    def unsupported(network: object) -> list[Unsupported]:
        return [Unsupported(name, "Readout", "none") for name in network.readouts]  # type: ignore[attr-defined]

    @staticmethod
    def run(network: object, inputs: object) -> object:
        from ovonic.models.dynamics import NoReset

        if network.readouts:  # type: ignore[attr-defined]
            refuse("broken", _Broken.unsupported(network))
        layers = dict(network.layers)  # type: ignore[attr-defined]
        if "pool" in layers:
            raise KeyError("pool")
        for name in network.spiking:  # type: ignore[attr-defined]
            layers[name] = layers[name].replace(dynamics=layers[name].dynamics.replace(reset=NoReset()))
        return run_fast(network.replace(layers=layers), inputs)  # type: ignore[attr-defined, arg-type]


def test_a_broken_toolchain_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "adapter", lambda name: _Broken)
    found = conformance("nest", 50, seed=6)
    assert not found.conforms
    assert found.refused == {"Readout": found.refused_networks}
    assert found.refused_networks > 15
    assert any("pool" in message for message in found.failed.values())
    caught = set(found.diverged) | set(found.deviating)
    without_reset = {i for i in range(50) if features(i, 6)["reset"] == "none"}
    assert len(found.diverged) >= 3
    assert caught.isdisjoint(without_reset)


def test_an_unknown_toolchain_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nest'"):
        conformance("nes", 1)


@pytest.mark.slow
@pytest.mark.toolchain
@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_toolchains_conform(toolchain: str) -> None:
    """No silent divergence and no failure in a few dozen networks; the long run is ``ovonic validate dynamics``."""
    pytest.importorskip(toolchain, reason=f"needs {toolchain}: pip install 'ovonic[{toolchain}]'")
    found = conformance(toolchain, 36, seed=8)
    assert found.failed == {}
    assert found.diverged == ()
    assert found.deviating == ()
    assert found.exact + found.refused_networks + len(found.undecidable) == 36
    if toolchain in ("snntorch", "norse"):
        assert found.exact >= 34
