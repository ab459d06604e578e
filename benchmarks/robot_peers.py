"""What ``robot_meta_step`` measures against: the meta-step as a plain torch loop, and its bare matrix products.

``plain`` is what an expert writes in an hour, with no part of our engine: time first, so that a step is contiguous,
``unbind`` over time, ``addmm`` (``baddbmm`` where each sample has weights of its own), fused pointwise operations, and
autograd through a ``Function`` with the published slope. The outer loss is written out, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovonic.models.natural_eprop import NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig

__all__ = ["HEIGHT", "RATE", "Task", "bare_products", "plain"]

RATE, HEIGHT = 1e-4, 0.3
"""Inner learning rate; height of the surrogate."""


class Task(NamedTuple):
    """Movements to learn, batch first as the library has them: [B, T, *], and what velocities do to the arm."""

    clock: Tensor
    lsg_input: Tensor
    omega: Tensor
    path: Tensor
    kinematics: Callable[[Tensor], Tensor]


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, above: Tensor, threshold: float, free: Tensor) -> Tensor:
        ctx.save_for_backward(above, free)
        ctx.threshold = threshold
        return (above > 0) * free

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        above, free = ctx.saved_tensors
        return grads[0] * triangle(above, ctx.threshold, free), None, None


def triangle(above: Tensor, threshold: float, free: Tensor) -> Tensor:
    """The slope of a spike, HEIGHT max(1 - |v - A| / threshold, 0) / threshold, zero while refractory."""
    height = HEIGHT / threshold
    return (height - above.abs() * (height / threshold)).clamp(min=0) * free


def recurrent(
    drive: Tensor, weight: Tensor, c: NaturalEPropConfig, threshold: float, beta: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """A layer's spikes z, membranes v and whether each neuron was free to spike, lists of [B, N]; drive [T, B, N]."""
    w = weight * (1 - torch.eye(weight.shape[-1], dtype=weight.dtype))
    rho = torch.tensor(-c.dt_ms / c.tau_adaptation_ms, dtype=torch.float64).exp().item()
    v = z = b = silent = torch.zeros_like(drive[0])
    fixed = torch.tensor(threshold, dtype=drive.dtype)
    spikes, membranes, frees = [], [], []
    for x in drive.unbind(0):
        level: Any = threshold
        if beta is not None:
            b = torch.add(z, b, alpha=rho)
            level = torch.addcmul(fixed, beta, b)
        one = w.ndim == 2
        u = torch.addmm(x, z, w) if one else torch.baddbmm(x.unsqueeze(1), z.unsqueeze(1), w).squeeze(1)
        u = torch.add(u, v, alpha=c.decay)
        v = torch.add(u, z, alpha=-threshold) if beta is None else torch.addcmul(u, z, level, value=-1)
        with torch.no_grad():
            silent = torch.add((silent - 1).clamp_(min=0), z, alpha=c.n_ref - 1)
            free = (silent == 0).to(x.dtype)
        z = Spike.apply(v - (level if beta is None else level.detach()), threshold, free)
        spikes.append(z)
        membranes.append(v)
        frees.append(free)
    return spikes, membranes, frees


def leak(x: Tensor, decay: float) -> Tensor:
    """y[t] = decay y[t-1] + x[t], time first."""
    y, out = torch.zeros_like(x[0]), []
    for row in x.unbind(0):
        y = torch.add(row, y, alpha=decay)
        out.append(y)
    return torch.stack(out)


def plain(model: NaturalEProp, task: Task, c: NaturalEPropConfig) -> None:
    lsg_in, lsg_rec, lsg_out = (model.lsg.weights()[name] for name in ("in.weight", "lsg.recurrence", "out.weight"))
    w_in, w_rec, w_out = (model.trainee.weights()[name] for name in ("in.weight", "trainee.recurrence", "out.weight"))
    x, clock = task.lsg_input.transpose(0, 1).contiguous(), task.clock.transpose(0, 1).contiguous()

    beta = torch.tensor([0.0, c.beta], dtype=x.dtype).repeat_interleave(torch.tensor([c.lsg_lif, c.lsg_alif]))
    lsg, _, _ = recurrent(x @ lsg_in, lsg_rec, c, c.lsg_threshold, beta)
    z_lsg = torch.stack(lsg)
    signal = leak(z_lsg @ lsg_out, c.decay)

    before, v, free = recurrent(clock @ w_in, w_rec, c, c.trainee_threshold)
    z = torch.stack(before)
    taught = triangle(torch.stack(v) - c.trainee_threshold, c.trainee_threshold, torch.stack(free)) * signal
    late = torch.cat([torch.zeros_like(z[:1]), z[:-1]])
    taught = taught.transpose(0, 1)
    change_in, change_rec = (
        -RATE * (leak(presynaptic, c.decay).permute(1, 2, 0) @ taught) for presynaptic in (clock, late)
    )

    drive = torch.bmm(task.clock, w_in + change_in).transpose(0, 1)
    after, _, _ = recurrent(drive, w_rec + change_rec, c, c.trainee_threshold)
    z_after = torch.stack(after)
    omega = leak(z_after @ w_out, c.decay).transpose(0, 1)

    per_step = c.dt_ms / 1000
    rates = ((z.mean((0, 1)) + z_after.mean((0, 1))) / 2 - 20 * per_step).square().sum()
    rates = rates + (z_lsg.mean((0, 1)) - 10 * per_step).square().sum()
    errors = (task.omega - omega).square().mean() + (task.path - task.kinematics(omega)).square().mean()
    (0.5 * errors + 0.25 * rates).backward()


def bare_products(c: NaturalEPropConfig, batch: int, steps: int, lsg_only: bool = False) -> Callable[[], None]:
    """Every dense matrix product of the meta-step, forward and backward, and nothing between them.

    Recurrences go step by step, forward and back; the gradient of a matrix is one product. All arrays are there before,
    time first; the trainee's second trial has a matrix a sample. ``lsg_only``: the LSG's recurrence alone.
    """
    rng = torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, device="cpu").to(torch.get_default_device())

    def layer(inputs: int, n: int, outputs: int) -> tuple[Tensor, ...]:
        return drawn(steps * batch, inputs), drawn(steps, batch, n), drawn(steps * batch, outputs)

    def recurrence(z: Tensor, w: Tensor) -> None:
        n = z.shape[-1]
        for matrix in (w, w.mT):
            if w.ndim == 2:
                u = torch.empty(batch, n)
                for step in z:
                    torch.mm(step, matrix, out=u)
            else:
                u = torch.empty(batch, 1, n)
                for step in z:
                    torch.bmm(step.unsqueeze(1), matrix, out=u)

    lsg, lsg_w = layer(c.clock + c.target, c.lsg, c.trainee), drawn(c.lsg, c.lsg)
    lsg_in, lsg_out = drawn(c.clock + c.target, c.lsg), drawn(c.lsg, c.trainee)

    def lsg_recurrence() -> None:
        recurrence(lsg[1], lsg_w)
        flat = lsg[1].flatten(0, 1)
        torch.mm(flat.t(), flat)

    if lsg_only:
        return lsg_recurrence

    trainee, w = layer(c.clock, c.trainee, c.outputs), drawn(c.trainee, c.trainee)
    w_in, w_out, own = drawn(c.clock, c.trainee), drawn(c.trainee, c.outputs), drawn(batch, c.trainee, c.trainee)
    own_in, clock, z = drawn(batch, c.clock, c.trainee), drawn(batch, steps, c.clock), drawn(batch, steps, c.trainee)

    def stateless(x: Tensor, w: Tensor, g: Tensor, back: bool) -> None:
        """A product for all steps, the gradient of its weights, and that of x."""
        torch.matmul(x, w)
        torch.matmul(x.mT, g)
        if back:
            torch.matmul(g, w.mT)

    def all_of_them() -> None:
        lsg_recurrence()
        flat = lsg[1].flatten(0, 1)
        stateless(lsg[0], lsg_in, flat, back=False)
        stateless(flat, lsg_out, lsg[2], back=True)
        for matrix in (w, own):
            recurrence(trainee[1], matrix)
        flat = trainee[1].flatten(0, 1)
        stateless(trainee[0], w_in, flat, back=False)
        torch.mm(flat.t(), flat)
        stateless(flat, w_out, trainee[2], back=True)
        stateless(clock, own_in, z, back=False)
        torch.bmm(z.mT, z)
        torch.bmm(clock.mT, z)  # the update: trace^T (h L), then the gradients of h L and of the trace
        torch.bmm(z.mT, z)
        torch.bmm(clock, own_in)
        for matrix in (own, own.mT):
            torch.bmm(z, matrix)

    return functools.partial(all_of_them)
