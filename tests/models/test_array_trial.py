"""Trials on an array: the compiled loop against the plain simulator with callables, and the noise of a read.

Statistics: one family of 4 tests, fixed seed, false-alarm rate 2.5e-4 each, 1e-3 for the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ovonic.models.array_trial import Cells, Converter, trials
from ovonic.models.dynamics import Comparison
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, trainee_network
from ovonic.models.network import Network
from ovonic.models.simulation import run

N_IN, N, OUT, B, T = 3, 24, 2, 4, 60
CONFIG = NaturalEPropConfig(clock=N_IN, trainee=N, outputs=OUT, trainee_threshold=0.5)


def network() -> Network:
    zero = np.zeros
    return trainee_network(zero((N_IN, N)), zero((N, N)), zero((N, OUT)), CONFIG)


def draw(seed: int) -> dict[str, Any]:
    """Arrays, cells that differ, spikes: float64."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    weight = 2 * uniform(N_IN + N, N + OUT) - 0.9
    place = torch.randperm(B * weight.numel(), generator=g)[:200].sort().values
    return {
        "x": (uniform(B, T, N_IN) < 0.2).double() * (torch.arange(T) % 3 == 0).double()[:, None],
        "weight": weight,
        "load": 0.01 * uniform(*weight.shape),
        "scale": 0.3 + 0.4 * uniform(B, 2, N + OUT),
        "cells": Cells(place, 2 * uniform(200) - 1, 0.05 * uniform(200)),
        "gain": 1 + 0.1 * uniform(N + OUT),
        "offset": 0.1 * uniform(N + OUT),
    }


def plain(given: dict[str, Any], converter: Converter, cells: Cells | None, seed: int) -> tuple[Any, Tensor]:
    """The same trials by ``simulation.run`` with callables that convert column by column, and conversions clipped."""
    x, g = given["x"], torch.Generator().manual_seed(seed)
    active = x.any(2).any(0)
    noise_x = torch.empty(B, int(active.sum()), converter.reads, N, dtype=x.dtype).normal_(generator=g)
    noise_z = torch.empty(B, T + 1, converter.reads, N + OUT, dtype=x.dtype).normal_(generator=g)
    weight, load = (given[k].expand(B, -1, -1).clone() for k in ("weight", "load"))
    if cells is not None:
        weight.view(-1)[cells.place], load.view(-1)[cells.place] = cells.weight, cells.load
    clipped = torch.zeros(B, dtype=torch.int64)

    def read(spikes: Tensor, rows: slice, columns: slice, noise: Tensor, counts: bool = True) -> Tensor:
        """One read: spikes [B, rows], noise [B, K, columns] -> [B, columns]."""
        total = 0.0
        for k in range(converter.reads):
            mean, variance = (torch.einsum("br,brc->bc", spikes, m[:, rows, columns]) for m in (weight, load))
            y = (mean + (variance + converter.out_noise**2).sqrt() * noise[:, k]) * converter.gain[columns]
            y = y + converter.offset[columns]
            if converter.lsb:
                level = (y / converter.lsb).round()
                over = (level.abs() > converter.top) & spikes.any(1, keepdim=True)
                clipped.add_(over.sum(1) if counts else 0)
                y = level.clamp(-converter.top, converter.top) * converter.lsb
            total = total + y / converter.reads
        return torch.where(spikes.any(1, keepdim=True), total, 0.0)

    inputs, neurons = slice(N_IN), slice(N_IN, None)
    step = iter(range(T))

    def feed(x: Tensor) -> Tensor:
        y = torch.zeros(B, T, N, dtype=x.dtype)
        for k, t in enumerate(active.nonzero().flatten().tolist()):
            y[:, t] = read(x[:, t], inputs, slice(N), noise_x[:, k]) * given["scale"][:, 0, :N]
        return y

    def recur(z: Tensor) -> Tensor:
        return read(z, neurons, slice(N), noise_z[:, next(step), :, :N]) * given["scale"][:, 1, :N]

    def out(z: Tensor) -> Tensor:
        reads = [read(z[:, t], neurons, slice(N, None), noise_z[:, t + 1, :, N:]) for t in range(T)]
        # the last read converts all columns, of which the neurons' are not needed
        read(z[:, -1], neurons, slice(N), noise_z[:, T, :, :N])
        return torch.stack(reads, 1) * given["scale"][:, 1:, N:]

    names = list(network().layers)
    products = {f"{names[1]}.weight": feed, f"{names[2]}.recurrence": recur, f"{names[3]}.weight": out}
    return run(network(), x, products), clipped


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("bits", [0, 5])
@pytest.mark.parametrize("reads", [1, 3])
def test_equals_the_plain_simulator(changed: bool, bits: int, reads: int) -> None:
    given = draw(1)
    levels = 2 ** (bits - 1) - 1 if bits else 0
    converter = Converter(1.5 / levels if bits else 0.0, float(levels), 0.04, given["gain"], given["offset"], reads)
    cells = given["cells"] if changed else None
    want, clipped = plain(given, converter, cells, 5)
    got, counts = trials(
        network(), given["x"], given["weight"], given["load"], given["scale"], converter,
        torch.Generator().manual_seed(5), cells,
    )  # fmt: skip
    (a,), (b,) = got.layers.values(), want.layers.values()
    assert a.spikes.sum() > 200
    assert torch.equal(a.spikes, b.spikes)
    assert torch.equal(a.refractory, b.refractory)
    torch.testing.assert_close(a.membrane, b.membrane, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.readout, want.readout, rtol=0, atol=1e-12)
    silent = torch.cat([torch.zeros(B, 1, N, dtype=torch.float64), a.spikes], 1).any(2).sum(1)
    assert torch.equal(counts[:, 0], reads * (given["x"].any(2).sum(1) + silent))
    assert torch.equal(counts[:, 1], clipped)
    assert bool((clipped > 0).all()) == bool(bits)


def test_samples_do_not_see_each_others_cells() -> None:
    given = draw(2)
    converter = Converter(0.0, 0.0, 0.0, torch.ones(N + OUT), torch.zeros(N + OUT))
    size = given["weight"].numel()
    quiet = {"load": torch.zeros_like(given["load"])}
    args = (network(), given["x"], given["weight"], quiet["load"], given["scale"], converter)
    base, _ = trials(*args, torch.Generator().manual_seed(0))
    only = given["cells"]._replace(load=torch.zeros(200, dtype=torch.float64))
    second = (only.place // size) == 1
    some = Cells(only.place[second], only.weight[second], only.load[second])
    changed, _ = trials(*args, torch.Generator().manual_seed(0), some)
    differs = (changed.readout != base.readout).flatten(1).any(1)
    assert differs.tolist() == [False, True, False, False]


def test_a_read_has_the_stated_noise() -> None:
    """One step, one input spike: v = s ADC(w + sqrt(load + out_noise^2) xi).

    n = 40,000 reads of each of two columns; mean by z-test, variance by chi-square: a mean off by 2 % or a standard
    deviation off by 2 % of what is due would be found with probability > .99.
    """
    n, w, load, out_noise, reads = 40_000, 0.3, 0.02, 0.1, 2
    weight = torch.zeros(N_IN + N, N + OUT, dtype=torch.float64)
    weight[0, 0], weight[0, 1] = w, -w
    loads = torch.zeros_like(weight)
    loads[0, :2] = load
    x = torch.zeros(n, 1, N_IN, dtype=torch.float64)
    x[:, 0, 0] = 1
    scale = torch.full((2, N + OUT), 1.5, dtype=torch.float64)
    converter = Converter(0.0, 0.0, out_noise, torch.ones(N + OUT), torch.zeros(N + OUT), reads)
    trace, _ = trials(network(), x, weight, loads, scale, converter, torch.Generator().manual_seed(3))
    (layer,) = trace.layers.values()
    variance = 1.5**2 * (load + out_noise**2) / reads
    for column, mean in ((0, 1.5 * w), (1, -1.5 * w)):
        v = layer.membrane[:, 0, column].numpy()
        z = (v.mean() - mean) / np.sqrt(variance / n)
        chi = v.var(ddof=1) * (n - 1) / variance
        assert 2 * stats.norm.sf(abs(z)) > 2.5e-4
        assert 2 * min(stats.chi2.cdf(chi, n - 1), stats.chi2.sf(chi, n - 1)) > 2.5e-4


def test_what_the_loop_does_not_run_is_refused() -> None:
    given = draw(3)
    converter = Converter(0.0, 0.0, 0.0, given["gain"], given["offset"])
    args = (given["x"], given["weight"], given["load"], given["scale"], converter, torch.Generator())
    with pytest.raises(ConfigError, match="the network needs"):
        trials(network(), given["x"], given["weight"][1:], *args[2:])
    net = network()
    name = net.spiking[0]
    layer: Any = net.layers[name]
    other = replace(layer, dynamics=replace(layer.dynamics, comparison=Comparison.GREATER_EQUAL))
    with pytest.raises(ConfigError, match=f"'{name}'"):
        trials(replace(net, layers=dict(net.layers) | {name: other}), *args)
