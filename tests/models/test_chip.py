"""The simulated chip: streams, counters, clock, faults, converters. Exact unless a test says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ovonic.models.chip import SimulatedChip
from ovonic.models.counters import Counters
from ovonic.models.device_faults import Faults
from ovonic.models.driver import Driver
from ovonic.models.errors import ConfigError
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import derive_seed, stream
from ovonic.models.splitting import conductances, weights
from ovonic.models.verify import Verify

ROWS, COLUMNS = slice(0, 6), slice(0, 5)


def chip(name: str = "pcm", periphery: Periphery | None = None, seed: int = 3, **options: Any) -> SimulatedChip:
    return SimulatedChip(2, device_model(name), periphery or Periphery(), seed=seed, rows=8, columns=7, **options)


def block(array: SimulatedChip, index: int = 0, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Program random weights [6, 5] into the first corner; gives the targets [4, 6, 5]."""
    w = scale * (2.0 * torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) - 1.0)
    g = conductances(w, array.g_max_us, "fill")
    r, c = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    array.program(index, r.flatten(), c.flatten(), g.reshape(4, -1))
    return g


def x(*shape: int) -> Tensor:
    return 2.0 * torch.rand(shape, generator=torch.Generator().manual_seed(9)) - 1.0


def test_it_is_a_driver() -> None:
    assert isinstance(chip(), Driver)


def test_equal_seeds_and_calls_give_equal_bits() -> None:
    def history(seed: int) -> list[Tensor]:
        one = chip(seed=seed)
        block(one)
        one.advance(30.0)
        y = one.mvm(0, x(3, 6), ROWS, COLUMNS)
        block(one, seed=1)
        return [y, one.read(0), one.mvm(0, x(3, 6), ROWS, COLUMNS)]

    assert all(map(torch.equal, history(1), history(1)))
    assert not any(map(torch.equal, history(1), history(2)))


def test_a_product_more_does_not_move_the_devices_and_arrays_do_not_share_streams() -> None:
    one, other = chip(), chip()
    block(one)
    block(other)
    for _ in range(3):
        other.mvm(0, x(6), ROWS, COLUMNS)
    other.read(1)
    block(other, index=1)
    block(one, seed=1)
    block(other, seed=1)
    one.advance(5.0)
    other.advance(5.0)
    assert torch.equal(one.read(0), other.read(0))
    pair = chip()
    block(pair, index=0)
    block(pair, index=1)
    assert not torch.equal(pair.read(0), pair.read(1))


def test_each_product_draws_anew() -> None:
    one = chip()
    block(one)
    assert not torch.equal(one.mvm(0, x(6), ROWS, COLUMNS), one.mvm(0, x(6), ROWS, COLUMNS))


def test_an_ideal_chip_multiplies_exactly_in_every_window_and_batch() -> None:
    one = chip("none", Periphery.ideal())
    w = weights(block(one), one.g_max_us)
    for rows, columns in ((ROWS, COLUMNS), (slice(2, 3), slice(4, 5)), (slice(1, 6), slice(0, 2))):
        for leading in ((), (4,), (2, 3), (0,)):
            given = x(*leading, rows.stop - rows.start)
            torch.testing.assert_close(one.mvm(0, given, rows, columns), given @ w[rows, columns], rtol=0, atol=1e-6)
    beyond = one.mvm(0, x(8), slice(0, 8), slice(0, 7))
    torch.testing.assert_close(beyond[:5], x(8)[:6] @ w, rtol=0, atol=1e-6)
    assert not bool(beyond[5:].any())
    assert not bool(one.mvm(1, x(8), slice(0, 8), slice(0, 7)).any())


def test_products_follow_what_is_programmed_and_the_clock() -> None:
    one = chip("pcm", Periphery.ideal())
    block(one)
    first = one.mvm(0, x(6), ROWS, COLUMNS)
    assert torch.equal(first, one.mvm(0, x(6), ROWS, COLUMNS))
    one.advance(100.0)
    second = one.mvm(0, x(6), ROWS, COLUMNS)
    block(one, seed=1)
    third = one.mvm(0, x(6), ROWS, COLUMNS)
    assert not torch.equal(first, second)
    for y in (third,):
        w = weights(one.read(0)[:, ROWS, COLUMNS], one.g_max_us)
        torch.testing.assert_close(y, x(6) @ w, rtol=0, atol=1e-5)


def test_the_clock_is_each_device_s_own() -> None:
    one = chip("pcm")
    g = block(one)
    one.advance(50.0)
    g = g.clone()
    g[0, 0, 0] = 20.0
    one.program(0, torch.tensor([0]), torch.tensor([0]), g[:, :1, 0])
    one.advance(25.0)
    assert one.now_s == 75.0
    times = one.states[0].t_prog_s[:, ROWS, COLUMNS]
    assert float(times[0, 0, 0]) == 50.0
    assert int((times == 50.0).sum()) == 1


def test_counters_count() -> None:
    one = chip(periphery=Periphery(read_phases=4))
    g = block(one)
    assert one.counters == Counters(pulses=120, devices_programmed=120, cells_programmed=30)
    g = g.clone()
    g[1:3, 0, 0] = torch.tensor([3.0, 4.0])
    g[0, 2, 1] = 5.0
    r, c = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    before = one.counters.copy()
    one.program(0, r.flatten(), c.flatten(), g.reshape(4, -1))
    assert one.counters - before == Counters(pulses=3, devices_programmed=3, cells_programmed=2)
    before = one.counters.copy()
    one.mvm(0, x(2, 3, 6), ROWS, COLUMNS)
    assert (one.counters - before).mvms == 6
    assert (one.counters - before).phases == 24
    one.mvm(0, (x(5, 6) > 0).float(), ROWS, COLUMNS, "binary")
    assert (one.counters - before).phases == 34
    one.read(0)
    assert (one.counters - before).reads == 4 * 8 * 7


def test_saturation_is_counted() -> None:
    one = chip("none", Periphery(adc_range=2.0, out_noise=0.0, w_noise=0.0))
    r, c = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    one.program(0, r, c, torch.tensor([25.0, 0.0, 25.0, 0.0])[:, None].expand(4, 6))
    given = torch.ones(2, 6)
    given[0, :2] = 1.5
    y = one.mvm(0, given, ROWS, COLUMNS)
    assert one.counters.dac_saturated == 2
    assert one.counters.adc_saturated == 2
    assert y[:, 0].tolist() == [2.0, 2.0]
    assert not bool(y[:, 1:].any())


def test_verification_is_counted_and_reported() -> None:
    one = chip(verify=Verify(5, 0.5))
    block(one)
    [log] = one.convergence
    assert log.devices == 120
    assert one.counters.pulses == one.counters.reads == log.pulses > 120
    assert one.counters.devices_programmed == 120
    assert int(one.states[0].pulses.sum()) == log.pulses


def test_faults_from_the_start_and_later() -> None:
    one = chip("none", faults=Faults(stuck_high=1.0))
    block(one)
    assert bool((one.read(0) == 25.0).all())
    assert one.counters.pulses == 120
    late = chip("none")
    g = block(late)
    late.inject_faults(Faults(stuck_low=0.5))
    stuck = late.states[0].fault[:, ROWS, COLUMNS] != 0
    assert torch.equal(late.read(0)[:, ROWS, COLUMNS], torch.where(stuck, 0.0, g))
    assert not torch.equal(late.states[0].fault, late.states[1].fault)


def test_levels_round_targets_and_cost_no_second_pulse() -> None:
    one = chip("none", faults=Faults(levels=6))
    g = block(one)
    torch.testing.assert_close(one.read(0)[:, ROWS, COLUMNS], (g / 5.0).round() * 5.0)
    pulses = one.counters.pulses
    block(one)
    assert one.counters.pulses == pulses


def test_columns_keep_their_gain_and_offset() -> None:
    one = chip("none", Periphery(0, 0, out_noise=0.0, w_noise=0.0, column_gain_sigma=0.1, column_offset_sigma=0.1))
    w = weights(block(one), one.g_max_us)
    gain, offset = one.column_errors[0]
    assert gain is not None
    assert offset is not None
    y = one.mvm(0, x(6), ROWS, slice(2, 5))
    torch.testing.assert_close(y, (x(6) @ w)[2:5] * gain[2:5] + offset[2:5], rtol=0, atol=1e-6)
    assert not torch.equal(gain, chip("none", one.periphery, seed=4).column_errors[0][0])


def test_no_cells_is_no_call() -> None:
    one, other = chip(), chip()
    nothing = torch.zeros(0, dtype=torch.int64)
    one.program(0, nothing, nothing, torch.zeros(4, 0))
    block(one)
    block(other)
    assert torch.equal(one.read(0), other.read(0))
    assert one.counters.devices_programmed == 120


@pytest.mark.parametrize(("name", "value"), [("n_arrays", 0), ("rows", -1), ("columns", 0)])
def test_sizes_that_mean_nothing_are_refused(name: str, value: int) -> None:
    options = {"n_arrays": 1, "rows": 2, "columns": 2, name: value}
    with pytest.raises(ConfigError, match=f"{name} {value}: at least 1"):
        SimulatedChip(
            options["n_arrays"],
            device_model("pcm"),
            Periphery(),
            seed=0,
            rows=options["rows"],
            columns=options["columns"],
        )


def test_compensation_is_refused_rather_than_left_out() -> None:
    with pytest.raises(ConfigError, match="compensation 'global': a chip answers uncompensated"):
        chip(periphery=Periphery(compensation="global"))


def test_wires_that_resist_lower_a_product() -> None:
    ideal = Periphery.ideal()
    one, other = chip("none", ideal), chip("none", Periphery(0, 0, out_noise=0.0, w_noise=0.0, wire_ohm=20.0))
    for each in (one, other):
        r, c = torch.arange(6), torch.zeros(6, dtype=torch.int64)
        each.program(0, r, c, torch.tensor([25.0, 0.0, 25.0, 0.0])[:, None].expand(4, 6))
    straight, lossy = (float(each.mvm(0, torch.ones(6), ROWS, slice(0, 1))) for each in (one, other))
    assert straight == pytest.approx(6.0, abs=1e-5)
    assert 4.0 < lossy < 5.99


def test_counters_add_subtract_and_refuse_unknown_names() -> None:
    one = Counters(pulses=3)
    one.add(mvms=2, pulses=1)
    assert (one + one).as_dict() == Counters(pulses=8, mvms=4).as_dict()
    assert one - Counters(pulses=4, mvms=2) == Counters()
    copy = one.copy()
    copy.add(reads=1)
    assert one.reads == 0
    with pytest.raises(ConfigError, match="counter 'mvm': did you mean 'mvms'"):
        one.add(mvm=1)


def test_streams_are_named_by_their_labels() -> None:
    assert stream(0).initial_seed() == derive_seed(0) == 6197007067532723406
    one, other = torch.rand(3, generator=stream(1, "a")), torch.rand(3, generator=stream(1, "b"))
    assert not torch.equal(one, other)
    assert torch.equal(one, torch.rand(3, generator=stream(1, "a")))
