"""Networks on chips: products as in software where nothing is noisy, one MVM a step, pulses where weights change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ovonic
from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_mapping import cnn_layout, layout_of, lsg_layout, trainee_layout
from ovonic.adapters.crossbar_placed import PlacedChip, PlacedTrials
from ovonic.adapters.crossbar_products import GroupProduct
from ovonic.models.chip import SimulatedChip
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError
from ovonic.models.lif import masked
from ovonic.models.natural_eprop import InnerLoop, teach
from ovonic.models.network import Network
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.simulation import run

from .crossbar_cases import modules, networks, recurrent_network

NONE, IDEAL = device_model("none"), Periphery.ideal()


def ideal_chip(layout: Layout) -> SimulatedChip:
    spec = layout.arrays[0]
    return SimulatedChip(len(layout.arrays), NONE, IDEAL, seed=0, rows=spec.rows, columns=spec.columns)


def spikes(
    batch: int, steps: int, n: int, seed: int = 0, rate: float = 0.2, dtype: torch.dtype = torch.float64
) -> Tensor:
    return (torch.rand(batch, steps, n, generator=torch.Generator().manual_seed(seed)) < rate).to(dtype)


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


class Recorder:
    """A chip that notes what it is asked to multiply, and multiplies by weights as they were given."""

    def __init__(self, chip: SimulatedChip) -> None:
        self.chip, self.calls = chip, []

    def __call__(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str) -> Tensor:
        self.calls.append((array, x.clone(), rows, columns, inputs))
        return self.chip.mvm(array, x, rows, columns, inputs)


class TestProducts:
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(
        networks(), st.integers(12, 64), st.integers(12, 64), st.sampled_from(["all", "rows", "none"]), st.booleans()
    )
    def test_any_network_runs_as_in_software(
        self, network: Network, rows: int, columns: int, together: str, parallel: bool
    ) -> None:
        """Until a membrane comes so near to its threshold that float32 products may decide otherwise."""
        layout = layout_of(network, rows=rows, columns=columns, together=together, parallel=parallel, scale="column")
        chip = PlacedChip.program(layout, network.weights(), ideal_chip(layout))
        x = torch.rand(2, 6, *network.shapes["x"], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        software, hardware = run(network, x), run(network, x, chip.trial())
        for name in network.spiking:
            v, off = software[name].membrane, software[name].membrane - hardware[name].membrane
            tolerance = 1e-5 * (1 + float(v.abs().max()))
            sound = int((off.abs() <= tolerance).flatten(2).all(2).all(0).cumprod(0).sum())
            if sound < 6:
                assert (v - 1.0).abs()[:, : sound + 1].min() < tolerance
                return
            assert torch.equal(software[name].spikes, hardware[name].spikes)

    def test_a_users_module(self) -> None:
        module = modules().double()
        x = torch.rand(3, 4, 12, 12, dtype=torch.float64)
        module(x)
        module.eval()
        layout = layout_of(module, rows=16, columns=16, example=x)
        weights = {name: p.detach() for name, p in module.named_parameters()}
        chip = PlacedChip.program(layout, weights, ideal_chip(layout))
        for name, layer in (("0.weight", module[0]), ("2.1.weight", module[2][1]), ("4.weight", module[4])):
            given = torch.rand(2, *{"0.weight": (4, 9, 7), "2.1.weight": (6, 5, 5), "4.weight": (20,)}[name]).double()
            due = layer(given).detach()
            if layer.bias is not None:
                due = due - layer.bias.detach().reshape(-1, *(1 for _ in due.shape[2:]))
            assert close(chip.product(name)(given), due)
        with pytest.raises(ConfigError, match=r"layer '0.weight': an input of \(2, 3, 9, 7\)"):
            chip.product("0.weight")(torch.zeros(2, 3, 9, 7))
        with pytest.raises(ConfigError, match=r"layer '5.weight': did you mean '4.weight'"):
            chip.product("5.weight")

    def test_convolutions_along_one_axis(self) -> None:
        conv = nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2, bias=False).double()
        layout = layout_of(conv, rows=8, columns=8)
        chip = PlacedChip.program(layout, {"weight": conv.weight.detach()}, ideal_chip(layout))
        x = torch.randn(5, 3, 11, dtype=torch.float64)
        assert close(chip.product("weight")(x), conv(x).detach())

    def test_the_cnn_gives_softwares_features(self) -> None:
        net = ovonic.load("fewshot-32bit")
        layout = cnn_layout(net, scale="column")
        chip = PlacedChip.program(layout, dict(net.named_parameters()), ideal_chip(layout))
        images = torch.rand(1, 6, 1, 28, 28, generator=torch.Generator().manual_seed(2))
        software = net.features(images[:, :4], images[:, 4:])[0].detach()

        class OnChip(nn.Module):
            def __init__(self, name: str) -> None:
                super().__init__()
                self.product = chip.product(name)

            def forward(self, x: Tensor) -> Tensor:
                return self.product(x)

        net.convs = nn.ModuleList(OnChip(f"convs.{k}.weight") for k in range(4))
        hardware, _ = net.features(images[:, :4], images[:, 4:])
        assert close(hardware, software, 1e-5)
        per_image = [cost.mvms for cost in layout.cost()][:4]
        assert chip.driver.counters.mvms == 6 * sum(per_image)
        logits = chip.product("readout.weight")(software)
        assert close(logits, software @ net.readout.weight.detach().T)

    def test_rows_between_driven_ones_are_silent(self) -> None:
        layout = layout_of(recurrent_network(), together="none")
        chip = ideal_chip(layout)
        recorder = Recorder(chip)
        PlacedChip.program(layout, recurrent_network().weights(), chip)
        product = GroupProduct(layout, ("in.weight",), recorder)
        product({"in.weight": torch.ones(5)})
        ((_, x, rows, columns, _),) = recorder.calls
        assert x.shape == (5,)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (5, 14)
        with pytest.raises(ConfigError, match=r"signals: 'in.weight' is missing"):
            product({})


class TestRecurrence:
    """What the trainee's array is asked: [x[t], z[t-1]] in step t, and once more for the last read-out."""

    def test_one_mvm_a_step(self) -> None:
        network, steps = recurrent_network(), 30
        layout = trainee_layout(network)
        chip = ideal_chip(layout)
        placed = PlacedChip.program(layout, network.weights(), chip)
        recorder = Recorder(chip)
        placed.driver = _Through(chip, recorder)
        x = spikes(3, steps, 5, rate=0.3)
        trace = run(network, x, placed.trial())
        z = trace["cells"].spikes
        assert z.sum() > 20
        assert len(recorder.calls) == steps + 1
        assert chip.counters.mvms == 3 * (steps + 1)
        before = torch.zeros(3, 14, dtype=z.dtype)
        for t, (_, driven, rows, columns, inputs) in enumerate(recorder.calls):
            clock = x[:, t] if t < steps else torch.zeros(3, 5, dtype=x.dtype)
            assert torch.equal(driven, torch.cat([clock, z[:, t - 1] if t else before], -1))
            assert (rows, columns, inputs) == (slice(0, 19), slice(0, 16), "binary")
        software = run(network, x)
        assert torch.equal(software["cells"].spikes, z)
        assert close(trace.readout, software.readout)

    def test_the_adc_converts_the_sum_of_input_and_recurrent_current(self) -> None:
        """3 - 2.5 is within a range of 1; the parts are not."""
        network = recurrent_network(1, 2, 1)
        network = network.with_weights(
            {"in.weight": [[3.0, 3.0]], "cells.recurrence": [[0.0, -2.5], [-2.5, 0.0]], "out.weight": [[1.0], [1.0]]}
        )
        periphery = Periphery(dac_bits=0, adc_bits=16, adc_range=1 / 3, out_noise=0.0, w_noise=0.0)
        results = {}
        for together in ("all", "rows"):
            layout = trainee_layout(network, together=together, w_max={"in.weight": 3.0, "cells.recurrence": 3.0})
            chip = SimulatedChip(1, NONE, periphery, seed=0)
            products = PlacedChip.program(layout, network.weights(), chip).trial()
            share = products["in.weight"](torch.ones(1, 1, 1))[:, 0]
            results[together] = share + products["cells.recurrence"](torch.tensor([[1.0, 0.0]]))
        assert torch.allclose(results["all"][0, 1], torch.tensor(0.5), atol=1e-4)
        assert torch.allclose(results["rows"][0, 1], torch.tensor(0.0), atol=1e-4)

    def test_the_read_out_is_read_in_the_next_mvm(self) -> None:
        """Each MVM of this chip adds its number to every product: the read-out of step t carries number t + 1."""
        network = recurrent_network()
        layout = trainee_layout(network, w_max={"out.weight": 1.0})
        chip = ideal_chip(layout)
        placed = PlacedChip.program(layout, network.weights(), chip)
        numbers = iter(range(100))

        def counting(array: int, x: Tensor, rows: slice, columns: slice, inputs: str) -> Tensor:
            y = torch.zeros(*x.shape[:-1], columns.stop - columns.start)
            y[..., 14:] = next(numbers)
            return y

        placed.driver = _Through(chip, counting)
        products = placed.trial()
        products["in.weight"](spikes(1, 4, 5))
        for _ in range(4):
            products["cells.recurrence"](torch.zeros(1, 14, dtype=torch.float64))
        read = products["out.weight"](torch.zeros(1, 4, 14, dtype=torch.float64))
        assert read[0, :, 0].tolist() == [1.0, 2.0, 3.0, 4.0]

    def test_steps_that_do_not_belong_together_are_refused(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network)
        placed = PlacedChip.program(layout, network.weights(), ideal_chip(layout))
        products = placed.trial()
        products["in.weight"](spikes(1, 2, 5))
        products["cells.recurrence"](torch.zeros(1, 14, dtype=torch.float64))
        with pytest.raises(ConfigError, match=r"layer 'out.weight': 2 steps, of which the recurrence has seen 1"):
            products["out.weight"](torch.zeros(1, 2, 14, dtype=torch.float64))
        products["cells.recurrence"](torch.zeros(1, 14, dtype=torch.float64))
        with pytest.raises(ConfigError, match="signal 'clock': 2 steps, and the recurrence takes one more"):
            products["cells.recurrence"](torch.zeros(1, 14, dtype=torch.float64))

    def test_the_shipped_trainee_spikes_as_in_software(self) -> None:
        """float32 products of weights on a 1/16 grid, in a run of float64: no membrane comes near its threshold."""
        trainee = ovonic.load("robot-q16").pair.trainee
        layout = trainee_layout(trainee)
        chip = PlacedChip.program(layout, trainee.weights(), ideal_chip(layout))
        x = _clock(249)
        software, hardware = run(trainee, x), run(trainee, x, chip.trial())
        off = (software["trainee"].membrane - hardware["trainee"].membrane).abs().max()
        margin = (software["trainee"].membrane - 0.6).abs().min()
        assert torch.equal(software["trainee"].spikes, hardware["trainee"].spikes)
        assert software["trainee"].spikes.sum() > 500
        assert off < margin
        assert close(hardware.readout, software.readout)

    def test_the_shipped_lsg_on_twenty_arrays(self) -> None:
        pair = ovonic.load("robot-q16").pair
        layout = lsg_layout(pair.lsg, scale="column")
        chip = PlacedChip.program(layout, pair.lsg.weights(), ideal_chip(layout))
        x = torch.cat([_clock(40), spikes(1, 1, 48, rate=0.5).expand(1, 40, 48)], -1)
        software, hardware = run(pair.lsg, x), run(pair.lsg, x, chip.trial())
        assert torch.equal(software["lsg"].spikes, hardware["lsg"].spikes)
        assert software["lsg"].spikes.sum() > 50
        assert close(hardware.readout, software.readout, 1e-5)
        assert chip.driver.counters.mvms == layout.cost(40)[0].mvms == 41 * 20


class TestReprogramming:
    def test_only_cells_whose_target_changes(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network, headroom=2.0)
        chip = SimulatedChip(1, device_model("pcm"), Periphery(), seed=4)
        placed = PlacedChip.program(layout, network.weights(), chip)
        assert chip.counters.cells_programmed == 5 * 14 + 14 * 13 + 14 * 2
        assert int((chip.states[0].pulses > 0).any(0).sum()) == chip.counters.cells_programmed
        placed.advance(60.0)
        before = chip.states[0]
        new = torch.tensor(network.weights()["cells.recurrence"])
        new[2, 3] += 0.25
        new[5, 5] = 9.0
        counts = placed.reprogram({"cells.recurrence": new})
        assert counts.cells_programmed == 1
        assert 1 <= counts.devices_programmed <= 4
        after = chip.states[0]
        for name, field in after._asdict().items():
            changed = (field != getattr(before, name)).any(0).nonzero().tolist()
            assert changed in ([], [[5 + 2, 3]]), name
        assert float(after.t_prog_s[:, 7, 3].max()) == 60.0
        assert placed.reprogram({"cells.recurrence": new}).pulses == 0
        with pytest.raises(ConfigError, match=r"weights 'cell.recurrence': did you mean 'cells.recurrence'"):
            placed.reprogram({"cell.recurrence": new})
        with pytest.raises(ConfigError, match=r"copies .*; a chip holds one of each"):
            placed.reprogram({"cells.recurrence": new.expand(2, -1, -1)})

    def test_weights_are_read_back(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network)
        placed = PlacedChip.program(layout, network.weights(), ideal_chip(layout))
        read = placed.weights()
        for layer in layout.layers:
            due = torch.tensor(network.weights()[layer.name])
            assert close(read[layer.name].double(), masked(due) if layer.masked_diagonal else due, 1e-6)

    def test_what_does_not_fit_the_chip(self) -> None:
        network = recurrent_network()
        layout = layout_of(network, rows=16, columns=16)
        with pytest.raises(ConfigError, match="layout of 2 arrays: the chip has 1"):
            PlacedChip.program(layout, network.weights(), SimulatedChip(1, NONE, IDEAL, seed=0))
        with pytest.raises(ConfigError, match=r"array 'A0' of 16 x 16: the chip's are 16 x 8"):
            PlacedChip.program(layout, network.weights(), SimulatedChip(2, NONE, IDEAL, seed=0, rows=16, columns=8))
        with pytest.raises(ConfigError, match=r"those of layer 'in.weight' are missing"):
            PlacedChip.program(layout, {}, SimulatedChip(2, NONE, IDEAL, seed=0))


class TestLessons:
    """Natural e-prop on the arrays: one lesson on a chip, or a batch on copies of its devices."""

    inner = InnerLoop(rate=0.02, step=1 / 16, updates=2)

    def lesson(self, network: Network, batch: int = 3, **options: Any) -> Any:
        x = spikes(batch, 25, 5, seed=5, rate=0.3)
        signals = torch.randn(batch, 25, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
        return teach(network, x, signals, self.inner, **options)

    @pytest.mark.parametrize("together", ["all", "rows", "none"])
    def test_copies_learn_as_in_software(self, together: str) -> None:
        network = recurrent_network()
        layout = layout_of(
            network, rows=24, columns=24, together=together, headroom=3.0, inputs={"in.weight": "binary"}
        )
        chip = ideal_chip(layout)
        PlacedChip.program(layout, network.weights(), chip)
        before = [state.g_read.clone() for state in chip.states]
        trials = PlacedTrials(layout, chip, seed=1)
        software, hardware = self.lesson(network), self.lesson(network, products=trials)
        for one, other in zip(software.trials, hardware.trials, strict=True):
            assert torch.equal(one["cells"].spikes, other["cells"].spikes)
            assert close(other.readout, one.readout)
        assert not torch.equal(software.trials[0]["cells"].spikes, software.trials[-1]["cells"].spikes)
        assert all(torch.equal(a, state.g_read) for a, state in zip(before, chip.states, strict=True))
        held = trials.weights()
        for name, change in software.changes.items():
            due = torch.tensor(network.weights()[name]) + change
            due = masked(due) if name == "cells.recurrence" else due
            assert close(held[name].double(), due, 1e-6)

    def test_every_device_that_is_not_touched_is_the_chips(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network, headroom=3.0)
        chip = SimulatedChip(1, device_model("pcm"), Periphery(), seed=4)
        PlacedChip.program(layout, network.weights(), chip)
        chip.advance(1e4)
        trials = PlacedTrials(layout, chip, seed=1)
        lesson = self.lesson(network, products=trials)
        (state,), (touched,) = trials.states, trials.touched
        assert state.g_read.shape == (3, 4, 19, 16)
        cells = torch.zeros(3, 19, 16, dtype=torch.bool)
        for update in lesson.updates:
            cells[:, :5, :14] |= update.change["in.weight"] != 0
            cells[:, 5:, :14] |= masked(update.change["cells.recurrence"]) != 0
        untouched = ~cells[:, None].expand_as(state.g_read)
        for name, field in state._asdict().items():
            same = getattr(chip.states[0], name)[:, :19, :16].expand_as(field)
            assert torch.equal(field[untouched], same[untouched]), name
        assert (touched.any(1) <= cells).all()
        assert trials.counters.mvms == 3 * 3 * 26
        assert trials.counters.cells_programmed == sum(
            int((masked(c) if c.shape[1] == 14 else c).count_nonzero())
            for u in lesson.updates
            for c in u.change.values()
        )
        again = PlacedTrials(layout, chip, seed=1)
        repeated = self.lesson(network, products=again)
        assert torch.equal(repeated.after, lesson.after)
        assert not torch.equal(self.lesson(network, products=PlacedTrials(layout, chip, seed=2)).after, lesson.after)

    def test_a_chip_learns_one_lesson_at_a_time(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network, headroom=3.0)
        chip = PlacedChip.program(layout, network.weights(), ideal_chip(layout))
        with pytest.raises(ConfigError, match="3 lessons side by side: a chip learns one at a time"):
            self.lesson(network, products=chip)
        for _ in range(2):
            software, hardware = self.lesson(network, batch=1), self.lesson(network, batch=1, products=chip)
            assert torch.equal(software.trials[-1]["cells"].spikes, hardware.trials[-1]["cells"].spikes)
            assert close(hardware.after, software.after)

    def test_limited_levels_are_the_chips(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network)
        chip = SimulatedChip(1, NONE, IDEAL, seed=0, faults=Faults(levels=5))
        PlacedChip.program(layout, network.weights(), chip)
        trials = PlacedTrials(layout, chip, seed=0)
        trials({name: torch.tensor(w) for name, w in network.weights().items()}, {})
        assert trials.counters.pulses == 0
        levels = trials.states[0].g_read / NONE.g_max_us * 4
        assert torch.allclose(levels, levels.round(), atol=1e-4)


def _clock(steps: int) -> Tensor:
    x = torch.zeros(1, steps, 5, dtype=torch.float64)
    for j in range(5):
        x[:, 50 * j : 50 * (j + 1) : 10, j] = 1
    return x


class _Through:
    """A driver whose products go through another function."""

    def __init__(self, chip: SimulatedChip, mvm: Any) -> None:
        self.mvm, self.counters = mvm, chip.counters
