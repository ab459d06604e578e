"""Learning signals that carry nothing of the target: what a lesson is worth is what it gains over lessons with these.

random     Each neuron's true signal with its Fourier phases over the lesson drawn anew, independently of the other
           neurons': amplitude spectrum, and so root mean square and (circular) autocorrelation, are those of the
           true signal, exactly; the sign of its mean is drawn too. Surrogate data of Theiler et al. 1992,
           Physica D 58:77. The gradients are then nearly as large as the true ones: those of the published weights
           .9 times, in root mean square, where white noise filtered by the read-out, scaled alike, gives .7.
shuffled   The true signals of another movement: a real lesson, for another pupil.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_signals", "shuffled_signals"]

STREAM = (1,)
"""Tells the streams that draw phases, (seed, movement, STREAM), from those that draw movements, (seed, movement)."""


def random_signals(signals: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
    """The random control of learning signals [B, T, N], of their dtype and device.

    Args:
        seed, indices: signal i is drawn from (seed, indices[i]) alone, whatever the batch.
    """
    drawn = np.empty(signals.shape)
    for row, signal, index in zip(drawn, signals.double().cpu().numpy(), indices, strict=True):
        spectrum = np.fft.rfft(signal, axis=0)
        rng = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=STREAM))
        turn = np.exp(2j * np.pi * rng.random(spectrum.shape))
        real = [0] if len(signal) % 2 else [0, -1]  # bins that have a sign and no phase
        turn[real] = np.where(turn[real].real < 0, -1, 1)
        row[:] = np.fft.irfft(spectrum * turn, len(signal), axis=0)
    return torch.from_numpy(drawn).to(signals)


def shuffled_signals(signals: Tensor, before: Tensor) -> Tensor:
    """The shuffled control of learning signals [B, T, N]: each movement gets those of the one before it.

    Args:
        before: signals of the movement before the first of this batch, [1, T, N]: of the last one of the batch before,
            or, at the very start, of the very last, so that no movement keeps its own and no batching matters.
    """
    return torch.cat([before, signals[:-1]])
