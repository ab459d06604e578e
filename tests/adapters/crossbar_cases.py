"""Random networks and layouts for the tests of the crossbar's placement."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from ovonic.adapters.crossbar import Block, Layout
from ovonic.models.dynamics import Dynamics
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network


def recurrent_network(inputs: int = 5, neurons: int = 14, outputs: int = 2, seed: int = 0) -> Network:
    """A trainee in small: clock, input weights, recurrent neurons without self-connections, read-out."""
    rng = np.random.default_rng(seed)
    return Network.stack(
        {
            "clock": Input((inputs,)),
            "in": Linear(rng.normal(size=(inputs, neurons))),
            "cells": Spiking(
                Dynamics(0.9, threshold=0.6), Recurrence(rng.normal(size=(neurons, neurons)) / 4, masked_diagonal=True)
            ),
            "out": Linear(rng.normal(size=(neurons, outputs)) / 10),
            "y": Readout(0.9),
        }
    )


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """One to four weight matrices: convolutions of one or two axes, grouped or not, then linear and recurrent ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers: dict[str, Layer] = {}
    convolutions, axes = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    if convolutions:
        channels = draw(st.integers(1, 3))
        layers["x"] = Input((channels, *[9] * axes))
        for k in range(convolutions):
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            out = groups * draw(st.integers(1, 4))
            window = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
            options = {name: draw(st.integers(1, 2)) for name in ("stride", "dilation")}
            kernel = rng.normal(size=(channels // groups, out, *window))
            layers[f"c{k}"] = Conv(
                kernel, rng.normal(size=out), padding=(draw(st.integers(1, 2)),), groups=groups,
                **{name: (size,) for name, size in options.items()},
            )  # fmt: skip
            channels = out
        layers["flat"] = Flatten()
    else:
        layers["x"] = Input((draw(st.integers(1, 70)),))
    layers["probe"] = Flatten()
    (width,) = Network.stack(layers).shapes["probe"]
    for k in range(draw(st.integers(0 if convolutions else 1, 2))):
        out = draw(st.integers(1, 40))
        layers[f"l{k}"] = Linear(rng.normal(size=(width, out)))
        kind = draw(st.sampled_from(["none", "masked", "whole", "one to one"]))
        weight = rng.normal(size=(out,) if kind == "one to one" else (out, out))
        recurrence = None if kind == "none" else Recurrence(weight, draw(st.integers(1, 2)), kind == "masked")
        layers[f"s{k}"] = Spiking(Dynamics(0.9, threshold=1.0), recurrence)
        width = out
    return Network.stack(layers)


def modules(seed: int = 0) -> nn.Module:
    """Nested, with a grouped convolution, a norm and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
            nn.ReLU(),
            nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 5, (2, 3), bias=False), nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.LazyLinear(7),
        )


def carved(layout: Layout, layer: str, i: int, j: int) -> tuple[list[Block], Block]:
    """The blocks of a layout with weight (i, j) of a layer taken out of its block, and a block of that weight alone."""
    rest: list[Block] = []
    for b in layout.blocks:
        if b.layer != layer or not (b.in_start <= i < b.in_stop and b.out_start <= j < b.out_stop):
            rest.append(b)
            continue
        home = b
        for rows, columns in (
            ((b.in_start, i), (b.out_start, b.out_stop)),
            ((i + 1, b.in_stop), (b.out_start, b.out_stop)),
            ((i, i + 1), (b.out_start, j)),
            ((i, i + 1), (j + 1, b.out_stop)),
        ):
            if rows[0] < rows[1] and columns[0] < columns[1]:
                rest.append(part(home, *rows, *columns))
    return rest, part(home, i, i + 1, j, j + 1)


def part(block: Block, in_start: int, in_stop: int, out_start: int, out_stop: int) -> Block:
    """A part of a block, in the same cells."""
    row, column = block.row + in_start - block.in_start, block.column + out_start - block.out_start
    return Block(block.layer, in_start, in_stop, out_start, out_stop, block.array, row, column)
