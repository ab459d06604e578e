"""The step: equal to sequences worked by hand, and bit for bit to a slow simulation that writes every reset at once.

Numbers are dyadic (decays of a half or three quarters, weights on a grid of 1/16) and runs short, so that no sum is
ever rounded, whatever its order: two programs of the same equations must then agree in every bit, ties with the
threshold included.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.layers import Recurrence, Spiking
from ovonic.models.lif import LIF, initial_state, silence, step, unroll
from ovonic.models.trace import LayerTrace

SAME, BEFORE, AFTER = When.SAME_STEP, When.NEXT_BEFORE_DECAY, When.NEXT_AFTER_INPUT
RESETS: tuple[Reset, ...] = (
    NoReset(),
    *(kind(when) for kind in (SubtractThreshold, SubtractAdapted) for when in When),
    *(ResetToValue(0.25, when) for when in When),
    SubtractThresholdOnce(),
)
T, N = 10, 4


def _run(drive: list[float], dynamics: Dynamics, recurrent: float | None = None, delay: int = 1) -> LayerTrace:
    """One neuron."""
    product = None if recurrent is None else lambda z: recurrent * z
    return unroll(torch.tensor(drive, dtype=torch.float64)[None, :, None], dynamics, product, delay)[0]


# ------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("reset", "membrane", "spikes"),
    [
        (NoReset(), [0.75, 1.125, 1.3125, 1.40625, 1.453125], [0, 1, 1, 1, 1]),
        (SubtractThreshold(AFTER), [0.75, 1.125, 0.3125, 0.90625, 1.203125], [0, 1, 0, 0, 1]),
        (SubtractThreshold(SAME), [0.75, 1.125, 0.8125, 1.15625, 0.828125], [0, 1, 0, 1, 0]),
        (SubtractThreshold(BEFORE), [0.75, 1.125, 0.8125, 1.15625, 0.828125], [0, 1, 0, 1, 0]),
        (SubtractThresholdOnce(), [0.75, 1.125, 0.8125, 1.15625, 0.828125], [0, 1, 0, 1, 0]),
        (ResetToValue(0.0, SAME), [0.75, 1.125, 0.75, 1.125, 0.75], [0, 1, 0, 1, 0]),
        (ResetToValue(0.5, SAME), [0.75, 1.125, 1.0, 1.25, 1.0], [0, 1, 0, 1, 0]),
        (ResetToValue(0.5, BEFORE), [0.75, 1.125, 1.0, 1.25, 1.0], [0, 1, 0, 1, 0]),
        (ResetToValue(0.5, AFTER), [0.75, 1.125, 0.5, 1.0, 1.25], [0, 1, 0, 0, 1]),
    ],
)
def test_every_reset_by_hand(reset: Reset, membrane: list[float], spikes: list[int]) -> None:
    """decay 1/2, threshold 1, a drive of 3/4: v = .75, .375 + .75 = 1.125, spike; and then the reset."""
    trace = _run([0.75] * 5, Dynamics(0.5, 1.0, reset=reset))
    assert trace.membrane.flatten().tolist() == membrane
    assert trace.spikes.flatten().tolist() == spikes


def test_a_spike_from_above_twice_the_threshold_is_reset_once() -> None:
    """3 -> 2 stays above 1, so the next spike must exceed 2: 1 + .75 does not, and nothing more is subtracted."""
    drive = [3.0, 0.75, 0.75]
    once = _run(drive, Dynamics(0.5, 1.0, reset=SubtractThresholdOnce()))
    plain = _run(drive, Dynamics(0.5, 1.0, reset=SubtractThreshold(SAME)))
    assert once.membrane.flatten().tolist() == [3.0, 1.75, 1.625]
    assert once.spikes.flatten().tolist() == [1, 0, 0]
    assert plain.membrane.flatten().tolist() == [3.0, 1.75, 1.125]
    assert plain.spikes.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("comparison", "spikes"), [(Comparison.GREATER, [0, 0, 1]), (Comparison.GREATER_EQUAL, [0, 1, 1])]
)
def test_a_tie_with_the_threshold(comparison: Comparison, spikes: list[int]) -> None:
    """v = .5, .25 + .75 = 1 exactly, .5 + 1."""
    trace = _run([0.5, 0.75, 1.0], Dynamics(0.5, 1.0, reset=NoReset(), comparison=comparison))
    assert trace.spikes.flatten().tolist() == spikes


def test_the_published_refractory_counter_by_hand() -> None:
    """n_ref 5: four silent steps, in which the membrane integrates: 2, 1 + 2 - 1, 1 + 2, 3.5, 3.75, 3.875 and spike."""
    trace = _run([2.0] * 7, Dynamics(0.5, 1.0, refractory=Refractory.from_n_ref(5)))
    assert trace.membrane.flatten().tolist() == [2.0, 2.0, 3.0, 3.5, 3.75, 3.875, 2.9375]
    assert trace.spikes.flatten().tolist() == [1, 0, 0, 0, 0, 1, 0]
    assert trace.refractory is not None
    assert trace.refractory.flatten().tolist() == [0, 4, 3, 2, 1, 0, 4]


def test_a_frozen_membrane_by_hand() -> None:
    trace = _run([2.0] * 6, Dynamics(0.5, 1.0, reset=ResetToValue(0.25), refractory=Refractory(2, frozen=True)))
    assert trace.membrane.flatten().tolist() == [2.0, 0.25, 0.25, 2.125, 0.25, 0.25]
    assert trace.spikes.flatten().tolist() == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("when", "fresh_spike_decays", "adaptation", "membrane", "spikes"),
    [
        # A = 1, 3, 2, 1.5;     v[1] = .75 + 1.5 - A[1]
        (AFTER, False, [0.0, 1.0, 0.5, 0.25], [1.5, -0.75, 1.125, 2.0625], [1, 0, 0, 1]),
        # A = 1, 2, 1.5, 2.25;  v[3] = .8125 + 1.5 - A[3]
        (AFTER, True, [0.0, 0.5, 0.25, 0.625], [1.5, 0.25, 1.625, 0.0625], [1, 0, 1, 0]),
        # A = 1, 3, 2, 3.5;     v[1] = (1.5 - A[0]) / 2 + 1.5, v[3] = (2.375 - A[2]) / 2 + 1.5
        (SAME, False, [0.0, 1.0, 0.5, 1.25], [1.5, 1.75, 2.375, 1.6875], [1, 0, 1, 0]),
        # A = 1, 3, 2, 1.5;     v[1] = (1.5 - A[1]) / 2 + 1.5
        (BEFORE, False, [0.0, 1.0, 0.5, 0.25], [1.5, 0.75, 1.875, 2.4375], [1, 0, 0, 1]),
    ],
)
def test_adaptation_by_hand(
    when: When, fresh_spike_decays: bool, adaptation: list[float], membrane: list[float], spikes: list[int]
) -> None:
    """decay and decay_b 1/2, threshold 1, beta 2, a drive of 1.5; a spike subtracts A of its own or the next step."""
    dynamics = Dynamics(0.5, 1.0, reset=SubtractAdapted(when), adaptation=Adaptation(0.5, 2.0, fresh_spike_decays))
    trace = _run([1.5] * 4, dynamics)
    assert trace.adaptation is not None
    assert trace.adaptation.flatten().tolist() == adaptation
    assert trace.membrane.flatten().tolist() == membrane
    assert trace.spikes.flatten().tolist() == spikes


def test_a_synaptic_current_by_hand() -> None:
    """i = 1, .5, .25 after one impulse; v' = v / 2 + 2 i = 2, 2, 1.5 with neither threshold nor reset in the way."""
    trace = _run([2.0, 0, 0], Dynamics(0.5, 9.0, gain=2.0, synapse=Synapse(0.5, gain=0.5)))
    assert trace.membrane.flatten().tolist() == [2.0, 2.0, 1.5]


def test_rest_and_initial_potential_by_hand() -> None:
    trace = _run([0.0, 0.0, 1.0], Dynamics(0.5, 1.0, rest=-1.0, v_init=0.0, gain=0.5))
    assert trace.membrane.flatten().tolist() == [-0.5, -0.75, -0.375]


@pytest.mark.parametrize("delay", [1, 2, 4])
def test_recurrence_arrives_after_its_delay(delay: int) -> None:
    trace = _run([2.0, 0, 0, 0, 0, 0], Dynamics(0.0, 1.0, reset=NoReset()), recurrent=0.5, delay=delay)
    expected = [2.0, 0, 0, 0, 0, 0]
    expected[delay] = 0.5
    assert trace.membrane.flatten().tolist() == expected


# ------------------------------------------------------------------------------------------------ a slow simulation


def _slow(x: np.ndarray, w: np.ndarray | None, delay: int, d: Dynamics) -> tuple[np.ndarray, ...]:
    """One neuron at a time in Python floats; resets of the same step are written there and then."""
    steps, n = x.shape

    def of(value: Any, j: int) -> float:
        return float(value if np.ndim(value) == 0 else value[j])

    v = [of(d.v_init, j) for j in range(n)]
    z, i, b, silent = ([0.0] * n for _ in range(4))
    past = [[0.0] * n for _ in range(delay)]
    out: tuple[list[list[float]], ...] = ([], [], [], [])
    when, adapt, syn = d.reset.when, d.adaptation, d.synapse

    def reset(v: float, j: int, level: float) -> float:
        if isinstance(d.reset, NoReset):
            return v
        if isinstance(d.reset, ResetToValue):
            return of(d.reset.v_reset, j)
        return v - (level if isinstance(d.reset, SubtractAdapted) else of(d.threshold, j))

    for t in range(steps):
        fed = past[delay - 1]
        row: list[list[float]] = [[], [], [], []]
        for j in range(n):
            current = x[t, j]
            if w is not None:
                current += fed[j] * w[j] if w.ndim == 1 else sum(fed[k] * w[k, j] for k in range(n))
            if syn:
                i[j] = of(syn.decay, j) * i[j] + of(syn.gain, j) * current
                current = i[j]
            level = of(d.threshold, j)
            if adapt:
                rho = of(adapt.decay, j)
                b[j] = rho * b[j] + (rho if adapt.fresh_spike_decays else 1) * z[j]
                level += of(adapt.beta, j) * b[j]
            if z[j] and when is BEFORE:
                v[j] = reset(v[j], j, level)
            carried = v[j]
            if not (d.refractory.frozen and silent[j] > 0):
                rest = of(d.rest, j)
                v[j] = rest + of(d.decay, j) * (v[j] - rest) + of(d.gain, j) * current
            if z[j] and when is AFTER:
                v[j] = reset(v[j], j, level)
            bar = level
            if isinstance(d.reset, SubtractThresholdOnce):
                th = of(d.threshold, j)
                bar += th if (carried > th or (carried == th and d.comparison is Comparison.GREATER_EQUAL)) else 0
            above = v[j] > bar or (v[j] == bar and d.comparison is Comparison.GREATER_EQUAL)
            fires = float(above and silent[j] == 0)
            for values, value in zip(row, (fires, v[j], silent[j], b[j]), strict=True):
                values.append(value)
            silent[j] = of(d.refractory.silent_steps, j) if fires else max(silent[j] - 1, 0)
            z[j] = fires
            if fires and when is SAME:
                v[j] = reset(v[j], j, level)
        past = [list(z), *past[:-1]]
        for values, value in zip(out, row, strict=True):
            values.append(value)
    return tuple(np.array(values) for values in out)


def _of_neurons(*values: float) -> st.SearchStrategy[Any]:
    one = st.sampled_from(values)
    return one | st.lists(one, min_size=N, max_size=N)


@st.composite
def _layers(draw: st.DrawFn, resets: tuple[Reset, ...] = RESETS) -> tuple[Spiking, Tensor]:
    """A layer and its currents [2, T, N], every number dyadic."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dynamics = Dynamics(
        draw(_of_neurons(0.0, 0.5, 0.75, 1.0)),
        draw(_of_neurons(0.5, 1.0, 1.25)),
        draw(_of_neurons(0.25, 0.5, 1.0)),
        draw(_of_neurons(0.0, -0.5)),
        draw(_of_neurons(0.0, 0.25)),
        draw(st.sampled_from(Comparison)),
        draw(st.sampled_from(resets)),
        Refractory(draw(_of_neurons(0, 1, 3)), draw(st.booleans())),
        draw(st.none() | st.builds(Adaptation, _of_neurons(0.5, 0.75), _of_neurons(0.0, 0.5), st.booleans())),
        draw(st.none() | st.builds(Synapse, _of_neurons(0.0, 0.5), _of_neurons(0.5, 1.0))),
    )
    delay = draw(st.integers(1, 3))
    dense, single = (rng.integers(-16, 17, shape) / 16 for shape in ((N, N), (N,)))
    recurrence = draw(
        st.sampled_from(
            [None, Recurrence(dense, delay), Recurrence(dense, delay, masked_diagonal=True), Recurrence(single, delay)]
        )
    )
    return Spiking(dynamics, recurrence), torch.tensor(rng.integers(-12, 33, (2, T, N)) / 16)


def _simulated(layer: Spiking, currents: Tensor) -> LayerTrace:
    with torch.no_grad():
        return cast(LayerTrace, LIF(layer, dtype=currents.dtype)(currents)[0])


def _parts(trace: LayerTrace) -> list[Tensor]:
    zero = torch.zeros_like(trace.spikes)
    return [trace.spikes, trace.membrane, *(zero if x is None else x for x in (trace.refractory, trace.adaptation))]


@pytest.mark.parametrize("reset", RESETS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_bit_as_the_slow_simulation(reset: Reset, data: st.DataObject) -> None:
    layer, currents = data.draw(_layers((reset,)))
    trace = _simulated(layer, currents)
    recurrence = layer.recurrence
    w, delay = (None, 1) if recurrence is None else (recurrence.effective, recurrence.delay)
    for sample in range(len(currents)):
        slow = _slow(currents[sample].numpy(), w, delay, layer.dynamics)
        for part, expected in zip(_parts(trace), slow, strict=True):
            assert part[sample].tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------ properties


@settings(max_examples=60, deadline=None)
@given(_layers())
def test_the_module_is_the_step_in_a_loop(drawn: tuple[Spiking, Tensor]) -> None:
    layer, currents = drawn
    trace = _simulated(layer, currents)
    recurrence = layer.recurrence
    state = initial_state(currents[:, 0], layer.dynamics, 1 if recurrence is None else recurrence.delay)
    for t in range(T):
        current = currents[:, t]
        if recurrence is not None:
            w = torch.tensor(recurrence.effective)
            current = current + (state.past[-1] * w if w.ndim == 1 else state.past[-1] @ w)
        z, state = step(current, state, layer.dynamics)
        assert torch.equal(z, trace.spikes[:, t])
        assert torch.equal(state.v, trace.membrane[:, t])


@settings(max_examples=60, deadline=None)
@given(_layers(), st.integers(1, T - 1))
def test_a_run_can_be_cut_anywhere(drawn: tuple[Spiking, Tensor], cut: int) -> None:
    layer, currents = drawn
    module = LIF(layer, dtype=torch.float64)
    whole, last = module(currents)
    first, state = module(currents[:, :cut])
    second, end = module(currents[:, cut:], state)
    for joint, one, two in zip(_parts(whole), _parts(first), _parts(second), strict=True):
        assert torch.equal(joint, torch.cat([one, two], 1))
    assert torch.equal(end.v, last.v)


@settings(max_examples=60, deadline=None)
@given(_layers(), st.permutations(range(N)))
def test_permuted_neurons_give_permuted_spikes(drawn: tuple[Spiking, Tensor], order: list[int]) -> None:
    layer, currents = drawn

    def permuted(array: np.ndarray) -> np.ndarray:
        return array[np.ix_(*[order] * array.ndim)]

    recurrence = layer.recurrence
    other = Spiking(
        layer.dynamics.map_arrays(permuted).replace(),
        None if recurrence is None else recurrence.replace(weight=permuted(recurrence.weight)),
    )
    for here, there in zip(
        _parts(_simulated(layer, currents)), _parts(_simulated(other, currents[..., order])), strict=True
    ):
        assert torch.equal(here[..., order], there)


@settings(max_examples=40, deadline=None)
@given(_layers())
def test_samples_do_not_see_each_other(drawn: tuple[Spiking, Tensor]) -> None:
    layer, currents = drawn
    together = _parts(_simulated(layer, currents))
    for sample in range(2):
        alone = _parts(_simulated(layer, currents[sample : sample + 1]))
        assert all(torch.equal(a[sample : sample + 1], b) for a, b in zip(together, alone, strict=True))


@settings(max_examples=40, deadline=None)
@given(_layers())
def test_float32_is_exact_where_nothing_is_rounded(drawn: tuple[Spiking, Tensor]) -> None:
    """Five steps of these numbers fit 24 bits; and the dtype stays."""
    layer, currents = drawn
    wide, narrow = (_simulated(layer, currents[:, :5].to(dtype)) for dtype in (torch.float64, torch.float32))
    assert narrow.spikes.dtype == narrow.membrane.dtype == torch.float32
    assert torch.equal(wide.spikes, narrow.spikes.double())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("silent", [0, 1, 2, 7])
@pytest.mark.parametrize("reset", RESETS)
def test_silence_lasts_as_long_as_it_says(reset: Reset, silent: int, frozen: bool) -> None:
    """Under a drive that always suffices, spikes are silent + 1 steps apart."""
    dynamics = Dynamics(0.5, 1.0, reset=reset, refractory=Refractory(silent, frozen), v_init=64.0)
    spikes = _run([64.0] * 40, dynamics).spikes.flatten()
    if isinstance(reset, ResetToValue) and reset.when is AFTER and not silent:
        silent = 1  # the input of the step after a spike is discarded
    gaps = spikes.nonzero().flatten().diff()
    assert set(gaps.tolist()) == {silent + 1}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_the_callers(dtype: torch.dtype) -> None:
    dynamics = Dynamics(
        [0.9, 0.8],
        1.0,
        0.5,
        -0.5,
        0.0,
        adaptation=Adaptation(0.9, 0.3),
        refractory=Refractory([1, 2]),
        synapse=Synapse(0.5),
    )
    trace, state = unroll(torch.ones(2, 5, 2, dtype=dtype), dynamics)
    assert {trace.spikes.dtype, trace.membrane.dtype, trace.adaptation.dtype, state.i.dtype} == {dtype}  # type: ignore[union-attr]
    assert trace.refractory is not None
    assert trace.refractory.dtype == torch.int16


@pytest.mark.parametrize("steps", [3, np.array([0, 1, 4, 2])])
def test_spikes_determine_the_refractory_counter(steps: int | np.ndarray) -> None:
    drive = torch.rand(2, 60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trace, _ = unroll(drive, Dynamics(0.9, 0.8, refractory=Refractory(steps)))
    assert trace.refractory is not None
    assert (trace.refractory > 0).any()
    assert torch.equal(silence(trace.spikes, steps), trace.refractory)
