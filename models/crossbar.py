"""A crossbar of phase-change devices that keep their state: program, reprogram, advance, read.

    weight       w = (G1+ + G2+ - G1- - G2-) / (2 g_max)                a 4R8T cell, in -1..1 of full scale
    programming  g_prog ~ model.program(g_target), nu ~ model.draw_nu(g_target)        when a device is programmed
    drift        g(a) = g_prog ((a + t_0) / t_0)^-nu,   a = now - t_prog               a: the device's own age, s
    read noise   the accumulated (1/f) part: drawn when time advances and when a device is programmed, and carried in
                 g_read; what each product adds is drawn by ``models.array_products``

Conventions, here and in all modules of the crossbar:

- Conductances are [..., 4, rows, cols], uS, in the order G1+, G1-, G2+, G2- on axis -3. Rows are wordlines (inputs),
  columns are bitline pairs (outputs): weights are [in, out], as in ``models.network`` (``adapters.aihwkit_devices``
  has [..., 4, out, in], as aihwkit has).
- Leading dimensions are copies of the array, one a task or lesson, that share their devices until they are programmed.
- Time is the array's clock, s. Programming ends at age 0, and the first read is at age 0, which the drift law puts at
  t_0 (g = g_prog).
- A stuck device (``fault`` 1) holds one conductance for ever, without drift and accumulated noise. A controller does
  not know of it: it is pulsed and counted as any other, and its ``g_target`` is what was asked of it.
- ``gain`` is what a device conducts relative to what is drawn for it, the spread from device to device; it stays.

Order of draws, which is what makes equal seeds equal bits: programming, drift exponents, first read; each for the
devices that need it (``models.sparse_draws``) in memory order: of [..., 4, rows, cols] in ``program``, of the touched
cells [4, n], which follow the order of [..., rows, cols], in ``reprogram``.

Cost: a state is 33 bytes a device at most: 8.7 MB for 256 x 256 cells. What is the same for all devices (times, pulses,
gains after ``program``) is a view of one number, and ``crop`` and ``expand`` are views too: never write into a field.
``reprogram`` copies the six fields that it changes, so n copies of a crop cost 112 n bytes a cell of the crop from then
on (56 x 5 cells: 31 kB a copy; 250 x 250: 7 MB), whatever the share of touched devices: crop first. Draws and their
temporaries are proportional to the touched cells.

Not modelled: temperature, disturbance of neighbours, endurance, the time that programming takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ovonic.models import splitting
from ovonic.models.device_faults import Faults, draw
from ovonic.models.errors import ConfigError
from ovonic.models.sparse_draws import devices_to_draw, draw_for
from ovonic.models.verify import Convergence, Verify, program_and_verify

if TYPE_CHECKING:
    from ovonic.models.pcm import DeviceModel

__all__ = [
    "ArrayState",
    "advance",
    "blank",
    "crop",
    "expand",
    "inject_faults",
    "program",
    "read_conductances",
    "reprogram",
    "weights",
]


class ArrayState(NamedTuple):
    """The devices of an array, each field [..., 4, rows, cols].

    Attributes:
        g_target: what was last asked of each device, uS; g_prog: what it then held; g_read: as it reads now.
        nu: drift exponents; t_prog_s: the clock when each was last programmed, s, float64.
        pulses: pulses each has had, int32; fault: 0 none, 1 stuck, uint8.
        gain: what it conducts, relative to what is drawn for it.
    """

    g_target: Tensor
    g_prog: Tensor
    nu: Tensor
    t_prog_s: Tensor
    g_read: Tensor
    pulses: Tensor
    fault: Tensor
    gain: Tensor


def blank(rows: int, columns: int, now_s: float = 0.0) -> ArrayState:
    """Devices that were never programmed: RESET, 0 uS, no pulse counted."""
    shape = torch.Size((4, rows, columns))
    nothing, clock = _same(0, shape, torch.float32), _same(now_s, shape, torch.float64)
    pulses, fault = _same(0, shape, torch.int32), _same(0, shape, torch.uint8)
    return ArrayState(nothing, nothing, nothing, clock, nothing, pulses, fault, _same(1, shape, torch.float32))


def program(
    model: DeviceModel,
    g_target: Tensor,
    *,
    now_s: float = 0.0,
    generator: torch.Generator | None,
    verify: Verify | None = None,
    on_verified: Callable[[Convergence], object] | None = None,
) -> ArrayState:
    """Program every device of a new array, and read it for the first time.

    Args:
        model: device model; g_target: [..., 4, rows, cols], 0..g_max, uS; now_s: the array's clock, s.
        generator: of all draws. verify: program-and-verify instead of one pulse a device.
        on_verified: is told how the verification went.
    Raises: ConfigError: a target that no device can hold, or no four devices.
    """
    _check_targets(g_target, model.g_max_us)
    devices = devices_to_draw(model, g_target)
    if verify is None:
        g_prog = draw_for(devices, g_target, lambda g: model.program(g, generator), g_target)
        pulses = _same(1, g_target.shape, torch.int32)
    else:
        cells = g_target.movedim(-3, 0)
        g_flat, pulses_flat, convergence = program_and_verify(
            model, cells.reshape(4, -1, 1), torch.ones(4, cells[0].numel(), 1, dtype=torch.bool), generator, verify
        )
        g_prog = g_flat.reshape(cells.shape).movedim(0, -3).contiguous()
        pulses = pulses_flat.reshape(cells.shape).movedim(0, -3).contiguous()
        if on_verified is not None:
            on_verified(convergence)
    nu = draw_for(devices, torch.zeros_like(g_target), lambda g: model.draw_nu(g, generator), g_target)
    g_read = draw_for(devices, g_prog, lambda g, v: model.read(g, v, 0.0, generator), g_prog, nu)
    t_prog_s = _same(now_s, g_target.shape, torch.float64)
    fault, gain = _same(0, g_target.shape, torch.uint8), _same(1, g_target.shape, g_target.dtype)
    return ArrayState(g_target, g_prog, nu, t_prog_s, g_read, pulses, fault, gain)


def reprogram(
    state: ArrayState,
    model: DeviceModel,
    g_target: Tensor,
    *,
    now_s: float,
    generator: torch.Generator | None,
    mask: Tensor | None = None,
    verify: Verify | None = None,
    on_verified: Callable[[Convergence], object] | None = None,
) -> tuple[ArrayState, Tensor]:
    """Program the devices whose target changes, or those in ``mask``; every other keeps its state bit for bit.

    Args:
        state, model, g_target, generator, verify, on_verified: as ``program``; ``g_target`` is expanded to the state.
        now_s: the array's clock, s.
        mask: devices [..., 4, rows, cols] or cells [rows, cols], bool: these are programmed, changed or not, and a new
            target outside of it is ignored.
    Returns: the new state (fields that nothing changed are those of ``state``), and which devices were programmed,
        [..., 4, rows, cols] bool, stuck ones among them.
    Raises: ConfigError: as ``program``; shapes that do not fit; a clock before that of a device to program.
    """
    shape = state.g_prog.shape
    g_target = _expanded("g_target", g_target, shape)
    touched = g_target != state.g_target if mask is None else _expanded("mask", mask, shape)
    cells = touched.any(-3).nonzero(as_tuple=True)
    if not cells[0].numel():
        return state, touched
    where: tuple[slice | Tensor, ...] = (slice(None), *cells)

    def take(field: Tensor) -> Tensor:
        return field.movedim(-3, 0)[where].unsqueeze(-1)

    now, old, target = take(touched), ArrayState(*map(take, state)), take(g_target)
    target = torch.where(now, target, old.g_target)
    _check_targets(target, model.g_max_us)
    if not (latest := float(old.t_prog_s[now].max())) <= now_s:
        raise ConfigError(f"time {now_s} s lies before {latest} s, when a device was programmed")
    stuck = old.fault != 0

    def settle(drawn: Tensor, cells: Tensor | slice = slice(None)) -> Tensor:
        return torch.where(stuck[:, cells], old.g_prog[:, cells], drawn * old.gain[:, cells])

    devices = devices_to_draw(model, target, now)
    if verify is None:
        g_prog = settle(draw_for(devices, target, lambda g: model.program(g, generator), target))
        pulses = now.to(torch.int32)
    else:
        g_prog, pulses, convergence = program_and_verify(
            model, target, now, generator, verify, held=old.g_prog, settle=settle
        )
        if on_verified is not None:
            on_verified(convergence)
    moved = now & ~stuck
    g_prog = torch.where(moved, g_prog, old.g_prog)
    nu = draw_for(devices, torch.zeros_like(target), lambda g: model.draw_nu(g, generator), target)
    nu = torch.where(moved, nu, old.nu)
    g_read = draw_for(devices, g_prog, lambda g, v: model.read(g, v, 0.0, generator), g_prog, nu)
    g_read = torch.where(moved, g_read, old.g_read)
    t_prog_s = torch.where(moved, float(now_s), old.t_prog_s)

    def put(field: Tensor, values: Tensor) -> Tensor:
        copy = field.clone(memory_format=torch.contiguous_format)
        copy.movedim(-3, 0)[where] = values.squeeze(-1)
        return copy

    changed = {
        "g_target": target,
        "g_prog": g_prog,
        "nu": nu,
        "t_prog_s": t_prog_s,
        "g_read": g_read,
        "pulses": old.pulses + pulses,
    }
    return state._replace(**{name: put(getattr(state, name), values) for name, values in changed.items()}), touched


def advance(state: ArrayState, model: DeviceModel, *, now_s: float, generator: torch.Generator | None) -> ArrayState:
    """Move the clock: every device drifts from its own g_prog for its own age, and draws its accumulated read noise.

    Args: now_s: the array's clock, s; at the very time of programming this is a second first read.
    Raises: ConfigError: ``now_s`` lies before a device was programmed.
    """
    ages = now_s - state.t_prog_s
    youngest, oldest = (float(age) for age in torch.aminmax(ages))
    if not youngest >= 0:
        raise ConfigError(f"time {now_s} s lies before {now_s - youngest} s, when a device was programmed")
    age = youngest if youngest == oldest else ages.to(state.g_prog.dtype)
    g_read = model.read(state.g_prog, state.nu, age, generator)
    return state._replace(g_read=torch.where(state.fault != 0, state.g_prog, g_read))


def inject_faults(
    state: ArrayState, faults: Faults, generator: torch.Generator | None, *, g_max_us: float
) -> ArrayState:
    """Let devices fail: some are stuck from now on, and all get a gain of their own, beside what had failed before.

    Args: faults: how (its ``levels`` concern targets, not devices, and are not used here); g_max_us: of a device.
    """
    drawn = draw(faults, tuple(state.g_prog.shape), generator)
    stuck = drawn.stuck & (state.fault == 0)
    gain = torch.where(state.fault == 0, drawn.gain, 1.0)
    value = drawn.level * g_max_us
    return state._replace(
        g_prog=torch.where(stuck, value, state.g_prog * gain),
        g_read=torch.where(stuck, value, state.g_read * gain),
        nu=torch.where(stuck, 0.0, state.nu),
        fault=torch.where(stuck, 1, state.fault),
        gain=state.gain * gain,
    )


def read_conductances(state: ArrayState) -> Tensor:
    """The conductances as they read now, [..., 4, rows, cols], uS."""
    return state.g_read


def weights(state: ArrayState, g_max_us: float) -> Tensor:
    """The weights as they read now, [..., rows, cols], in units of full scale."""
    return splitting.weights(state.g_read, g_max_us)


def crop(state: ArrayState, rows: slice, columns: slice) -> ArrayState:
    """The devices of some rows and columns: views."""
    return ArrayState(*(field[..., rows, columns] for field in state))


def expand(state: ArrayState, n: int) -> ArrayState:
    """``n`` copies that share their devices until they are programmed: views with a new first dimension."""
    return ArrayState(*(field.expand(n, *field.shape) for field in state))


def _same(value: float, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The same value for every device: a view of one number."""
    return torch.tensor(value, dtype=dtype).expand(shape)


def _check_targets(g_target: Tensor, g_max_us: float) -> None:
    if g_target.ndim < 3 or g_target.shape[-3] != 4:
        raise ConfigError(f"g_target: shape {tuple(g_target.shape)}, [..., 4, rows, cols] is due")
    if not g_target.numel():
        raise ConfigError(f"g_target: shape {tuple(g_target.shape)} holds no device")
    low, high = (float(g) for g in torch.aminmax(g_target.detach()))
    if not (low >= 0 and high <= g_max_us * (1 + 1e-6)):
        bad = high if low >= 0 else low
        raise ConfigError(f"g_target {bad} uS: a device holds 0 to {g_max_us} uS; clip or scale the weights")


def _expanded(name: str, given: Tensor, shape: torch.Size) -> Tensor:
    try:
        return given.expand(shape)
    except RuntimeError:
        raise ConfigError(f"{name}: shape {tuple(given.shape)} does not fit an array of {tuple(shape)}") from None
