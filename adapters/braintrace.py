"""One episode of e-prop by braintrace 0.2.8's own ``EProp``, on a network stated in brainstate's terms (JAX, float64).

braintrace finds the hidden states and the weights of a model in its jaxpr, takes the Jacobian of every neuron's states
by JAX, and rolls a trace of every weight forward. Nothing of our rule is in it; ours here are one step of
``models.dynamics`` on JAX arrays and the slope of a spike. In its words (``EProp``; kappa is the read-outs' decay):

    eps[t]  = D[t] eps[t-1] + D_f[t] x[t]       of all states (i, v, b, z) of a neuron; D, D_f: Jacobians, by JAX
    ebar[t] = kappa ebar[t-1] + eps[t]          its filter, not normalised: nothing is converted
    dE/dW   = sum_t dE[t]/dz[t] ebar_z[t]       eps_z = psi eps_v .. is Bellec's eligibility e

What Bellec et al. 2020 detach and filter, in braintrace:

- the recurrence: braintrace detaches it, a product by ``braintrace.matmul`` is a border of D (its scope ``diagonal``)
- the reset: the model does (``stop_gradient``); braintrace would follow it
- the filter, after psi: z is a state of the model; on v alone braintrace filters before psi, which is not e-prop
- the learning signal: symmetric, dE[t]/dz[t] of 1/2 (y[t] - target)^2 with y[t-1] held. ``feedback="random"`` sees no
  read-out, only dE/dh: it is not used
- a read-out's own weights: nothing recurrent hangs on them, their gradient is exact in any rule, and computed here

**A trap.** braintrace 0.2.8 perturbs every new state to learn dE/dh, and what later lines of the same step read is the
perturbed one; eps follows those lines too. A state that another reads within its step (v before z, i before v) then
counts twice: exactly 2 where z is read from v. What is stored here is a copy, ``v + 0``, which nothing else reads.
(And no equation may take two states at once: where b takes z, it takes ``z + 0``.)

Refused by name: read-outs of different decays (one kappa an algorithm) or of decay 1 (kappa < 1), a read-out's own
synapse, elementwise recurrence, ``SubtractThresholdOnce``, surrogates not written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, Wiring, misplaced, targets_by_name, wiring
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.dynamics import Dynamics, SubtractThresholdOnce, When
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.models.layers import Spiking
from ovonic.models.lif import leak, silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.surrogates import PUBLISHED_SLOPE, ArcTan, Boxcar, FastSigmoid, Sigmoid, Surrogate, Triangular
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["loaded", "run_eprop", "unsupported"]


def unsupported(network: Network, surrogate: Surrogate = PUBLISHED_SLOPE) -> list[Unsupported]:
    """What this formulation does not say."""
    if found := list(misplaced(network)):
        return found
    return list(_of_layers(network, surrogate))


def _of_layers(network: Network, surrogate: Surrogate) -> Iterator[Unsupported]:
    hidden = wiring(network).hidden
    layer: Any = network.layers[hidden]
    if isinstance(layer.dynamics.reset, SubtractThresholdOnce):
        reason = "its level of a spike depends on the membrane before"
        yield Unsupported(hidden, "Dynamics.reset", reason, "use SubtractThreshold()")
    if layer.recurrence is not None and layer.recurrence.weight.ndim == 1:
        reason = "braintrace's border between neurons is a matrix product"
        yield Unsupported(hidden, "Recurrence.weight", reason, "write it as a diagonal matrix")
    if type(surrogate) not in SLOPES:
        yield Unsupported(hidden, f"surrogate {type(surrogate).__name__}", "it is not written here", "use Triangular")
    for name in network.readouts:
        if network.layers[name].synapse is not None:  # type: ignore[attr-defined]
            yield Unsupported(name, "Readout.synapse", "EProp has one filter, kappa", "leave it out")
    decays = [np.ravel(network.layers[name].decay) for name in network.readouts]  # type: ignore[attr-defined]
    if decays and np.ptp(np.concatenate(decays)):
        reason = "EProp has one kappa, the read-outs' decays differ"
        yield Unsupported(", ".join(network.readouts), "Readout.decay", reason, "give all read-outs one decay")
    elif decays and decays[0][0] == 1:
        yield Unsupported(network.readouts[0], "Readout.decay", "EProp's kappa lies below 1", "use a decay below 1")


@contextmanager
def loaded() -> Iterator[SimpleNamespace]:
    """JAX with 64 bits, brainstate and braintrace, as ``jax``, ``np``, ``state``, ``trace``; 64 bits only in here.

    Raises: ToolchainError: one of them does not load.
    """
    try:
        import brainstate
        import braintrace
        import jax
        import jax.numpy as jnp
    except Exception as error:
        raise ToolchainError(f"braintrace does not load ({error}): pip install 'ovonic[braintrace]'") from error
    with jax.enable_x64(True), brainstate.environ.context(precision=64):
        yield SimpleNamespace(jax=jax, np=jnp, state=brainstate, trace=braintrace)


def run_eprop(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    targets: Mapping[str, Tensor] | None = None,
    *,
    signal: Tensor | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
) -> EpropEpisode:
    """Run an episode from the initial state and return the gradient that braintrace's ``EProp`` accumulated.

    Args:
        network: see ``unsupported``. inputs: [B, T, in] of float64; by name where there are several.
        targets: of every read-out, [B, T, O]; the loss is 1/2 sum (y - target)^2 over samples, steps and components.
        signal: learning signals instead, L of the spiking layer, [B, T, N]; then read-outs do not learn, and there is
            no filter (kappa 0).
        surrogate: slope of a spike.
    Raises: UnsupportedDynamics: see ``unsupported``. ConfigError: a bad input, target or signal. ToolchainError: no
        braintrace.
    """
    refuse("braintrace's e-prop", unsupported(network, surrogate))
    given = {name: x.detach() for name, x in inputs_by_name(network, inputs).items()}
    first = next(iter(given.values()))
    wired = wiring(network)
    due = (*first.shape[:2], *network.shapes[wired.hidden])
    if (targets is None) == (signal is None):
        raise ConfigError("run_eprop: give either targets or a signal")
    if signal is not None and tuple(signal.shape) != due:
        raise ConfigError(f"signal: shape {tuple(signal.shape)} where {due} is due")
    told = {} if targets is None else targets_by_name(network, targets, first)
    with loaded() as x:
        arriving = [_time_first(x, given[source]) for _, source in wired.into]
        model = _model(x, network, wired, len(first), surrogate)
        decay = 0.0 if signal is not None else _kappa(network)
        learner = x.trace.compile(
            model, x.trace.EProp, *(a[0] for a in arriving), batch_size=len(first), kappa_filter_decay=decay
        )
        if signal is None:
            errors = [_time_first(x, told[name]) for _, name in wired.out]
            step = _taught(x, network, wired, learner, len(first))
        else:
            errors = [_time_first(x, signal)]
            step = _told(x, learner)
        found, seen = learner.etrace_grad(arriving, errors, step_fn=step, has_aux=True, reduction="sum")
        run = {name: torch.from_numpy(np.array(value)).to(first).transpose(0, 1) for name, value in seen.items()}
        gradients = {name: torch.from_numpy(np.array(found[path,])).to(first) for name, path in model.names.items()}
    recurrence = network.layers[wired.hidden].recurrence  # type: ignore[attr-defined]
    if recurrence is not None and recurrence.masked_diagonal:
        gradients[f"{wired.hidden}.recurrence"].fill_diagonal_(0)
    if signal is None:
        gradients |= _of_readouts(network, wired, run, told)
    return EpropEpisode(gradients, _trace(network, wired, run, given))


def _time_first(x: SimpleNamespace, tensor: Tensor) -> Any:
    return x.np.asarray(tensor.detach().transpose(0, 1).numpy())


def _kappa(network: Network) -> float:
    return float(np.ravel(network.layers[network.readouts[0]].decay)[0])  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ the network


def _model(x: SimpleNamespace, network: Network, wired: Wiring, batch: int, surrogate: Surrogate) -> Any:
    """The spiking layer as a brainstate module: one step of ``models.dynamics``, its weights through braintrace."""
    jnp, held = x.np, x.jax.lax.stop_gradient
    layer: Any = network.layers[wired.hidden]
    d: Dynamics = layer.dynamics
    fire = _spike(x, d, surrogate)
    n = network.shapes[wired.hidden][0]
    reset_before, same_step = d.reset.when is not When.NEXT_AFTER_INPUT, d.reset.when is When.SAME_STEP

    class Layer(x.state.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.names = {f"{linear}.weight": f"into{k}" for k, (linear, _) in enumerate(wired.into)}
            for k, (linear, _) in enumerate(wired.into):
                weight = network.layers[linear].weight  # type: ignore[attr-defined]
                setattr(self, f"into{k}", x.state.ParamState(jnp.asarray(weight)))
            if layer.recurrence is not None:
                weight = np.array(layer.recurrence.weight)
                if layer.recurrence.masked_diagonal:
                    np.fill_diagonal(weight, 0)
                self.recurrent = x.state.ParamState(jnp.asarray(weight))
                self.names[f"{wired.hidden}.recurrence"] = "recurrent"

        def init_state(self, batch_size: int | None = None, **options: Any) -> None:
            zero = jnp.zeros((batch, n))
            self.v, self.z = x.state.HiddenState(zero + d.v_init), x.state.HiddenState(zero)
            if d.adaptation is not None:
                self.b = x.state.HiddenState(zero)
            if d.synapse is not None:
                self.i = x.state.HiddenState(zero)
            self.silent = x.state.ShortTermState(jnp.zeros((batch, n), int))
            if layer.recurrence is not None and layer.recurrence.delay > 1:
                self.past = x.state.ShortTermState(jnp.zeros((layer.recurrence.delay - 1, batch, n)))

        def update(self, *arriving: Any) -> dict[str, Any]:
            last, before = self.z.value, self.v.value
            current = sum(x.trace.matmul(a, getattr(self, f"into{k}").value) for k, a in enumerate(arriving))
            if layer.recurrence is not None:
                fed = last
                if layer.recurrence.delay > 1:
                    fed = self.past.value[-1]
                    self.past.value = jnp.concatenate([held(last)[None], self.past.value[:-1]])
                current = current + x.trace.matmul(fed, self.recurrent.value)
            if d.synapse is not None:
                current = d.synapse(self.i.value, current)
                self.i.value = current + 0.0
            r = jnp.where(last > 0, d.refractory.silent_steps, jnp.maximum(self.silent.value - 1, 0))
            b = d.adaptation(self.b.value, last + 0.0) if d.adaptation is not None else None
            level = d.adapted(b)
            due = d.adapted(self.b.value) if same_step and d.adaptation is not None else level

            def reset(v: Any) -> Any:
                return d.reset(v, held(last), d.threshold, held(due))

            before = reset(before) if reset_before else before
            v = leak(before, current, d)
            v = v if reset_before else reset(v)
            if d.refractory.frozen:
                v = jnp.where(r > 0, before if reset_before else reset(before), v)
            z = fire(v, level, r == 0)
            self.v.value, self.z.value, self.silent.value = v + 0.0, z, r
            if b is not None:
                self.b.value = b + 0.0
            return {"z": z, "v": v} | ({} if b is None else {"b": b})

    return Layer()


def _spike(x: SimpleNamespace, d: Dynamics, surrogate: Surrogate) -> Callable[..., Any]:
    """(membrane, level, may fire) -> spikes, with the surrogate for a derivative, zero where it may not fire."""
    slope, scale = SLOPES[type(surrogate)], np.subtract(d.threshold, d.rest)

    @x.jax.custom_jvp
    def spike(above: Any, z: Any, psi: Any) -> Any:
        return z

    @spike.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return primals[1], primals[2] * tangents[0]

    def fire(v: Any, level: Any, free: Any) -> Any:
        z = (d.comparison(v, level) & free).astype(v.dtype)
        return spike(v - level, z, slope(x.np, surrogate, v - level, scale) * free)

    return fire


SLOPES: dict[type, Callable[..., Any]] = {
    Triangular: lambda np, s, x, scale: s.height * np.maximum(1 - np.abs(x / scale), 0) / scale,
    Boxcar: lambda np, s, x, scale: (np.abs(x) <= s.width * scale) * s.height / scale,
    ArcTan: lambda np, s, x, scale: s.alpha / 2 / (1 + (np.pi / 2 * s.alpha * x) ** 2),
    FastSigmoid: lambda np, s, x, scale: 1 / (1 + s.slope * np.abs(x)) ** 2,
    Sigmoid: lambda np, s, x, scale: s.slope / (2 + 2 * np.cosh(s.slope * x)),
}
"""The slopes of ``models.surrogates`` on JAX arrays."""


# ------------------------------------------------------------------------------------------------ the loss


def _told(x: SimpleNamespace, learner: Any) -> Callable[..., Any]:
    """The loss whose dE/dz is the signal."""

    def step(arriving: Any, signals: Any) -> Any:
        seen = learner(*arriving)
        return x.np.sum(signals[0] * seen["z"]), seen

    return step


def _taught(x: SimpleNamespace, network: Network, wired: Wiring, learner: Any, batch: int) -> Callable[..., Any]:
    """1/2 (y - target)^2 of read-outs beside the model; y[t-1] is held, since the filter is braintrace's."""
    readouts: list[Any] = [network.layers[name] for _, name in wired.out]
    weights = [x.np.asarray(network.layers[linear].weight) for linear, _ in wired.out]  # type: ignore[attr-defined]
    membranes = [
        x.state.ShortTermState(x.np.zeros((batch, w.shape[1])) + r.v_init)
        for r, w in zip(readouts, weights, strict=True)
    ]

    def step(arriving: Any, targets: Any) -> Any:
        seen = learner(*arriving)
        loss = 0.0
        for (_, name), layer, weight, y, target in zip(wired.out, readouts, weights, membranes, targets, strict=True):
            value = leak(y.value, seen["z"] @ weight, layer)
            loss = loss + x.np.sum((value - target) ** 2) / 2
            seen[name] = y.value = x.jax.lax.stop_gradient(value)
        return loss, seen

    return step


def _of_readouts(
    network: Network, wired: Wiring, run: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient of the read-outs' weights: filtered spikes times errors."""
    filtered = torch.from_numpy(lfilter([1.0], [1.0, -_kappa(network)], run["z"].numpy(), axis=1)).to(run["z"])
    found = {}
    for linear, name in wired.out:
        gain = torch.as_tensor(np.array(network.layers[name].gain))  # type: ignore[attr-defined]
        error = gain * (run[name] - targets[name])
        found[f"{linear}.weight"] = filtered.flatten(0, 1).T @ error.flatten(0, 1)
    return found


def _trace(network: Network, wired: Wiring, run: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Trace:
    layer = network.layers[wired.hidden]
    assert isinstance(layer, Spiking)
    silent = layer.dynamics.refractory.silent_steps
    counters = silence(run["z"], silent) if np.any(silent) else None
    readouts = {name: run[name] for name in network.readouts if name in run}
    return Trace({wired.hidden: LayerTrace(run["z"], run["v"], counters, run.get("b"))}, readouts, given, network.dt_ms)
