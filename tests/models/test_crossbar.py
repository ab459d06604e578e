"""Arrays of devices with state. Exact unless a test says otherwise: equal seeds, equal bits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor

from ovonic.models.crossbar import (
    ArrayState,
    advance,
    blank,
    crop,
    expand,
    inject_faults,
    program,
    read_conductances,
    reprogram,
    weights,
)
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError
from ovonic.models.pcm import DEVICE_MODELS, DeviceModel, device_model
from ovonic.models.splitting import SPLITS, conductances
from ovonic.models.verify import Convergence, Verify

NOISY = tuple(name for name in DEVICE_MODELS if name != "none")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_targets(model: DeviceModel, shape: tuple[int, ...], seed: int) -> Tensor:
    """A third of the devices at 0."""
    u = 1.5 * torch.rand(shape, generator=seeded(seed)) - 0.5
    return u.clamp(min=0.0) * model.g_max_us


def bits(field: Tensor) -> bytes:
    return field.contiguous().numpy().tobytes()


def same(one: ArrayState, other: ArrayState) -> bool:
    return all(bits(a) == bits(b) for a, b in zip(one, other, strict=True))


class Case(NamedTuple):
    model: DeviceModel
    base: ArrayState
    state: ArrayState
    wanted: Tensor
    mask: Tensor | None
    verify: Verify | None
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An array with a history, perhaps some copies of it, faults, and what it is to be programmed to next."""
    model = device_model(draw(st.sampled_from(DEVICE_MODELS)))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    generator = seeded(seed)
    base = program(model, random_targets(model, (4, rows, columns), seed + 1), now_s=3.0, generator=generator)
    if draw(st.booleans()):
        faults = Faults(stuck_low=0.1, stuck_high=0.1, stuck_random=0.1, device_sigma=0.2)
        base = inject_faults(base, faults, generator, g_max_us=model.g_max_us)
    base = advance(base, model, now_s=40.0, generator=generator)
    state = base
    for n in draw(st.sampled_from([(), (1,), (3,), (2, 3)])):
        state = expand(state, n)
    share = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    touched = torch.rand(state.g_prog.shape, generator=generator) < share
    wanted = torch.where(touched, random_targets(model, tuple(state.g_prog.shape), seed + 2), state.g_target)
    mask = touched if draw(st.booleans()) else None
    verify = Verify(3, 0.02 * model.g_max_us) if draw(st.booleans()) else None
    return Case(model, base, state, wanted, mask, verify, seed)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_reprogramming_touches_what_it_says_and_nothing_else(case: Case) -> None:
    model, base, state, wanted, mask, verify, seed = case
    kept = [bits(field) for field in base]
    log: list[Convergence] = []
    after, touched = reprogram(
        state,
        model,
        wanted,
        now_s=50.0,
        generator=seeded(seed),
        mask=mask,
        verify=verify,
        on_verified=log.append,
    )
    assert torch.equal(touched, wanted != state.g_target if mask is None else mask)
    for name, old, new in zip(ArrayState._fields, state, after, strict=True):
        assert new.shape == old.shape
        assert new.dtype == old.dtype
        assert bits(new[~touched]) == bits(old[~touched]), name
    assert [bits(field) for field in base] == kept, "the common base was written to"
    assert torch.equal(after.g_target[touched], wanted[touched])
    stuck = state.fault != 0
    for name in ("g_prog", "nu", "t_prog_s", "g_read"):
        assert torch.equal(getattr(after, name)[stuck], getattr(state, name)[stuck])
    assert bool((after.t_prog_s[touched & ~stuck] == 50.0).all())
    pulses = after.pulses - state.pulses
    if verify is None:
        assert torch.equal(pulses, touched.to(torch.int32))
    else:
        assert bool((pulses[touched] >= 1).all())
        assert int(pulses.sum()) == sum(c.pulses for c in log)
        assert int(pulses.max()) <= verify.iterations
    again, _ = reprogram(state, model, wanted, now_s=50.0, generator=seeded(seed), mask=mask, verify=verify)
    assert same(after, again)


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(50.0, 1e3), st.floats(1e3, 1e8))
def test_drift_composes_never_rises_and_knows_each_device_s_age(case: Case, t1: float, t2: float) -> None:
    if case.model.name != "none":
        case = case._replace(model=device_model(case.model.name, read_scale=0.0))
    model, state = case.model, case.state
    state, _ = reprogram(state, model, case.wanted, now_s=45.0, generator=seeded(case.seed))
    early = advance(state, model, now_s=t1, generator=None)
    late = advance(state, model, now_s=t2, generator=None)
    assert same(advance(early, model, now_s=t2, generator=None), late)
    assert bool((early.g_read <= state.g_prog).all())
    assert bool((late.g_read <= early.g_read).all())
    stuck = state.fault != 0
    assert torch.equal(late.g_read[stuck], state.g_prog[stuck])
    if model.name not in ("none", "published"):
        ages = t2 - state.t_prog_s
        law = state.g_prog.double() * ((ages + model.t_0_s) / model.t_0_s) ** -state.nu.double()
        torch.testing.assert_close(late.g_read[~stuck].double(), law[~stuck], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_programming_every_device_of_a_blank_array_draws_what_program_draws(name: str) -> None:
    model = device_model(name)
    g = random_targets(model, (4, 7, 5), 1)
    every = torch.ones(7, 5, dtype=torch.bool)
    for verify in (None, Verify(4, 0.03 * model.g_max_us)):
        made = program(model, g, now_s=2.0, generator=seeded(5), verify=verify)
        again, _ = reprogram(blank(7, 5), model, g, now_s=2.0, generator=seeded(5), mask=every, verify=verify)
        assert same(made, again)


@pytest.mark.parametrize("name", NOISY)
def test_seeds_decide_every_bit_and_leave_the_global_stream_alone(name: str) -> None:
    model = device_model(name)
    g = random_targets(model, (2, 4, 6, 3), 1)

    def history(seed: int) -> ArrayState:
        generator = seeded(seed)
        state = program(model, g, generator=generator)
        state = inject_faults(state, Faults(stuck_random=0.1), generator, g_max_us=model.g_max_us)
        state = advance(state, model, now_s=10.0, generator=generator)
        return reprogram(state, model, g.flip(-1), now_s=10.0, generator=generator)[0]

    before = torch.get_rng_state()
    assert same(history(1), history(1))
    assert not same(history(1), history(2))
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(sorted(SPLITS)), st.integers(0, 2**32))
def test_without_noise_decoded_weights_are_the_targets(rows: int, columns: int, split: str, seed: int) -> None:
    model = device_model("none")
    w = 2.0 * torch.rand(2, rows, columns, generator=seeded(seed)) - 1.0
    g = conductances(w, model.g_max_us, split)
    state = program(model, g, generator=seeded(seed))
    torch.testing.assert_close(weights(state, model.g_max_us), w, rtol=0, atol=3e-7)
    assert torch.equal(read_conductances(advance(state, model, now_s=1e7, generator=None)), g)
    changed, touched = reprogram(blank(rows, columns), model, g[0], now_s=0.0, generator=seeded(seed))
    torch.testing.assert_close(weights(changed, model.g_max_us), w[0], rtol=0, atol=3e-7)
    assert int(changed.pulses.sum()) == int(touched.sum()) == int((g[0] != 0).sum())


def test_a_masked_diagonal_costs_nothing() -> None:
    model = device_model("pcm")
    w = 2.0 * torch.rand(20, 20, generator=seeded(0)) - 1.0
    off_diagonal = ~torch.eye(20, dtype=torch.bool)
    g = conductances(w * off_diagonal, model.g_max_us, "fill")
    state, _ = reprogram(blank(20, 20), model, g, now_s=0.0, generator=seeded(1), mask=off_diagonal)
    assert not bool(state.pulses[:, ~off_diagonal].any())
    assert not bool(state.g_read[:, ~off_diagonal].any())
    state, touched = reprogram(state, model, g.flip(0).contiguous(), now_s=1.0, generator=seeded(2))
    assert bool(touched.any())
    assert not bool(state.pulses[:, ~off_diagonal].any())


def test_a_target_outside_the_mask_is_ignored() -> None:
    model = device_model("none")
    mask = torch.zeros(4, 2, 2, dtype=torch.bool)
    mask[1, 0, 1] = True
    state, touched = reprogram(blank(2, 2), model, torch.full((4, 2, 2), 7.0), now_s=0.0, generator=None, mask=mask)
    assert torch.equal(touched, mask)
    assert torch.equal(state.g_target, 7.0 * mask)
    assert torch.equal(state.g_read, 7.0 * mask)


def test_nothing_to_do_gives_back_the_same_state() -> None:
    model = device_model("pcm")
    state = expand(program(model, random_targets(model, (4, 3, 3), 0), generator=seeded(0)), 1000)
    after, touched = reprogram(state, model, state.g_target, now_s=0.0, generator=seeded(1))
    assert after is state
    assert not bool(touched.any())


def test_copies_and_crops_are_views() -> None:
    model = device_model("pcm")
    state = program(model, random_targets(model, (4, 8, 9), 0), generator=seeded(0))
    part = crop(expand(state, 5), slice(2, 6), slice(0, 3))
    for base, view in zip(state, part, strict=True):
        assert view.shape == (5, 4, 4, 3)
        assert view.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()


def test_copies_draw_for_themselves() -> None:
    model = device_model("pcm")
    state = expand(program(model, torch.full((4, 6, 6), 10.0), generator=seeded(0)), 2)
    after, _ = reprogram(state, model, torch.full((2, 4, 6, 6), 5.0), now_s=0.0, generator=seeded(1))
    assert not bool((after.g_prog[0] == after.g_prog[1]).any())
    aged = advance(state, model, now_s=9.0, generator=seeded(2))
    assert not bool((aged.g_read[0] == aged.g_read[1]).any())
    assert torch.equal(aged.g_prog[0], aged.g_prog[1])


class Spy:
    """A device model that keeps what it is asked."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.model = device_model(name, **changes)
        self.asked: dict[str, list[tuple[Tensor, ...]]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        if not callable(found):
            return found

        def call(*arguments: Any) -> Any:
            self.asked.setdefault(name, []).append(arguments)
            return found(*arguments)

        return call


def test_a_model_that_couples_devices_draws_touched_cells_and_reads_their_other_devices_as_they_are() -> None:
    spy = Spy("hermes-pair")
    g = torch.full((4, 5, 6), 4.0)
    state = program(spy, g, generator=seeded(0))
    spy.asked.clear()
    wanted = g.clone()
    wanted[0, 2, 3], wanted[3, 4, 1] = 9.0, 1.0
    after, _ = reprogram(state, spy, wanted, now_s=0.0, generator=seeded(1))
    for name in ("program", "draw_nu", "read"):
        [arguments] = spy.asked[name]
        assert arguments[0].shape == (4, 2, 1)
    [(g_prog, nu, age, _)] = spy.asked["read"]
    assert age == 0.0
    for cell, at in enumerate(((2, 3), (4, 1))):
        assert torch.equal(g_prog[:, cell, 0], after.g_prog[:, *at])
        assert torch.equal(nu[:, cell, 0], after.nu[:, *at])


@pytest.mark.parametrize("name", ["pcm", "hermes", "published"])
@pytest.mark.parametrize("zero_targets", ["reset", "noisy"])
def test_an_independent_model_draws_touched_devices_only_and_none_to_reset(name: str, zero_targets: str) -> None:
    spy = Spy(name, zero_targets=zero_targets)
    g = torch.zeros(4, 5, 6)
    g[:2] = torch.linspace(1.0, 9.0, 60).reshape(2, 5, 6)
    state = program(spy, g, generator=seeded(0))
    for verb in ("program", "draw_nu", "read"):
        [arguments] = spy.asked.pop(verb)
        assert arguments[0].numel() == (60 if zero_targets == "reset" else 120)
    wanted = g.clone()
    wanted[0, 2, 3], wanted[3, 4, 1], wanted[1, 0, 0] = 9.5, 1.0, 0.0
    after, touched = reprogram(state, spy, wanted, now_s=0.0, generator=seeded(1))
    assert int(touched.sum()) == 3
    due = [9.5, 1.0] if zero_targets == "reset" else [9.5, 0.0, 1.0]
    [(asked, _)] = spy.asked["program"]
    assert asked.shape == (4, 1, 1)
    assert sorted(asked.flatten().tolist()) == sorted([*due, *[0.0] * (4 - len(due))])
    if zero_targets == "reset":
        for field in (after.g_prog, after.nu, after.g_read):
            assert float(field[1, 0, 0]) == 0.0
        assert not bool(after.g_read[g + wanted == 0].any())


def test_independent_devices_are_drawn_from_the_same_distribution_in_any_company() -> None:
    """n = 4000 devices each, two-sample Kolmogorov-Smirnov tests of g_prog, nu and g_read, three false alarms in 1e4:
    they find a mean off by .05 standard deviations and a spread off by 6 %."""
    model = device_model("pcm")
    dense = program(device_model("pcm", zero_targets="noisy"), torch.full((4, 25, 40), 9.0), generator=seeded(0))
    g = torch.zeros(4, 100, 40)
    g[1] = 9.0
    sparse = program(model, g, generator=seeded(1))
    for name in ("g_prog", "nu", "g_read"):
        one, other = getattr(dense, name).flatten(), getattr(sparse, name)[1].flatten()
        assert ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-4, name


def test_stuck_devices_are_pulsed_counted_and_never_change() -> None:
    model = device_model("pcm")
    state = program(model, random_targets(model, (4, 30, 30), 0), generator=seeded(0))
    state = inject_faults(state, Faults(stuck_low=0.2, stuck_high=0.3), seeded(1), g_max_us=25.0)
    stuck = state.fault != 0
    assert set(state.g_read[stuck].tolist()) == {0.0, 25.0}
    share = float(stuck.float().mean())  # n = 3600, z-test, false alarms 1e-4: finds a share off by .033
    assert abs(share - 0.5) < 3.9 * math.sqrt(0.25 / 3600)
    held, pulses = state.g_read[stuck].clone(), state.pulses.clone()
    for verify, given_pulses in ((None, 1), (Verify(4, 0.1), 4)):
        state = advance(state, model, now_s=100.0, generator=seeded(2))
        wanted = torch.full_like(state.g_target, 12.0 + given_pulses)
        state, touched = reprogram(state, model, wanted, now_s=100.0, generator=seeded(3), verify=verify)
        assert bool(touched.all())
        assert torch.equal(state.g_read[stuck], held)
        assert bool((state.pulses - pulses)[stuck].eq(given_pulses).all())
        pulses = state.pulses.clone()
    assert torch.equal(inject_faults(state, Faults(stuck_low=1.0), seeded(4), g_max_us=25.0).g_read[stuck], held)


def test_a_device_s_gain_stays_with_it() -> None:
    model = device_model("none")
    g = torch.full((4, 40, 40), 10.0)
    state = inject_faults(program(model, g, generator=None), Faults(device_sigma=0.1), seeded(0), g_max_us=25.0)
    torch.testing.assert_close(state.g_read, 10.0 * state.gain)
    # n = 6400, of the logarithm: standard error of the spread .1 / sqrt(12800) = .0009; false alarms 1e-4
    assert abs(float(state.gain.log().std()) - 0.1) < 3.9 * 0.1 / math.sqrt(12800)
    after, _ = reprogram(state, model, 0.5 * g, now_s=1.0, generator=None)
    torch.testing.assert_close(after.g_read, 5.0 * state.gain)
    assert torch.equal(after.gain, state.gain)
    twice = inject_faults(after, Faults(device_sigma=0.1), seeded(1), g_max_us=25.0)
    torch.testing.assert_close(twice.g_read, 5.0 * twice.gain)
    assert not torch.equal(twice.gain, after.gain)


def test_gradients_pass_through_programming() -> None:
    model = device_model("pcm")
    base = program(model, torch.full((4, 3, 3), 10.0), generator=seeded(0))
    g = torch.full((4, 3, 3), 10.0)
    g[0, 1, 1] = 12.0
    g.requires_grad_()
    after, touched = reprogram(base, model, g, now_s=0.0, generator=seeded(1))
    weights(after, 25.0).sum().backward()
    assert g.grad is not None
    assert torch.equal(g.grad != 0, touched)
    assert 0.2 / 50 < float(g.grad[0, 1, 1]) < 2.0 / 50


@pytest.mark.parametrize(
    ("g", "message"),
    [
        (torch.full((4, 2, 2), 25.1), "g_target 25.1.* uS: a device holds 0 to 25.0 uS"),
        (torch.full((4, 2, 2), -0.5), "g_target -0.5 uS"),
        (torch.full((4, 2, 2), math.nan), "g_target nan uS"),
        (torch.zeros(3, 2, 2), r"shape \(3, 2, 2\), \[..., 4, rows, cols\] is due"),
        (torch.zeros(4, 0, 2), "holds no device"),
    ],
)
def test_targets_that_no_array_can_hold_are_refused(g: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        program(device_model("pcm"), g, generator=None)
    if g.shape == (4, 2, 2):
        with pytest.raises(ConfigError, match=message):
            reprogram(blank(2, 2), device_model("pcm"), g, now_s=0.0, generator=None)


def test_shapes_that_do_not_fit_and_clocks_that_run_backwards_are_refused() -> None:
    model = device_model("pcm")
    state = program(model, torch.full((4, 2, 3), 5.0), now_s=10.0, generator=seeded(0))
    with pytest.raises(ConfigError, match=r"g_target: shape \(4, 3, 2\) does not fit an array of \(4, 2, 3\)"):
        reprogram(state, model, torch.zeros(4, 3, 2), now_s=10.0, generator=None)
    with pytest.raises(ConfigError, match=r"mask: shape \(2, 2\) does not fit"):
        reprogram(state, model, state.g_target, now_s=10.0, generator=None, mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"time 9\.0 s lies before 10\.0 s"):
        reprogram(state, model, torch.zeros(4, 2, 3), now_s=9.0, generator=None)
    with pytest.raises(ConfigError, match=r"time 9\.5 s lies before 10\.0 s"):
        advance(state, model, now_s=9.5, generator=None)
    with pytest.raises(ConfigError, match="time nan s"):
        reprogram(state, model, torch.zeros(4, 2, 3), now_s=math.nan, generator=None)
    with pytest.raises(ConfigError, match="time nan s"):
        advance(state, model, now_s=math.nan, generator=None)
