"""Normal numbers of the compiled loops: the generator's published answers, and the distribution.

Statistical tests: n = 2^22 numbers of one fixed key, false-alarm rate 1e-4 each, 5e-4 for the file.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from ovonic.models.noise_kernels import BLOCK, NoiseStream, fill_normals, fill_words

N = 1 << 22


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    return NoiseStream(torch.Generator().manual_seed(20)).normals(N).astype(np.float64)


def test_words_are_those_of_philox() -> None:
    """Random123 1.14, kat_vectors: philox4x32 of 10 rounds, counter and key 0."""
    words = np.empty((1, 4), np.uint32)
    fill_words(np.uint64(0), 0, words)
    assert [hex(w) for w in words[0]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


def test_words_follow_a_plain_philox_in_whole_numbers_of_python() -> None:
    """Ten rounds as the paper has them, for keys and counters over all 64 bits; three vectors of Random123 first."""

    def philox(counter: list[int], key: list[int]) -> list[int]:
        c, k = list(counter), list(key)
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    ones = 0xFFFFFFFF
    assert philox([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0])
    assert pi == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    for key, product in ((1, 0), (2**63 - 1, 2**40 + 3), (0x299F31D0A4093822, 5)):
        words = np.empty((3, 4), np.uint32)
        fill_words(np.uint64(key), product, words)
        for block in range(3):
            counter = [block, 0, product & ones, product >> 32]
            assert words[block].tolist() == philox(counter, [key & ones, key >> 32])


def test_normals_are_box_mullers_of_the_words() -> None:
    """In float64 with NumPy's ln, sin and cos, to the rounding of u and angle to float32: 2^-24 / radius, and 1e-6."""
    found, words = np.empty(4 * BLOCK, np.float32), np.empty((BLOCK, 4), np.uint32)
    for product in range(50):
        fill_normals(np.uint64(7), product, found)
        fill_words(np.uint64(7), product, words)
        w = words.astype(np.float64)
        angle = np.pi * np.where(w >= 2**31, w - 2**32, w)[:, 1::2] / 2**31
        radius = np.sqrt(-2 * np.log((np.floor(w[:, 0::2] / 2) + 0.25) / 2**31))
        due = np.concatenate([(radius * part(angle))[:, i] for i in range(2) for part in (np.cos, np.sin)])
        rounding = 2.0**-24 / np.concatenate([radius[:, 0], radius[:, 0], radius[:, 1], radius[:, 1]])
        assert (np.abs(found - due) < 1e-6 + rounding).all()


def test_moments(numbers: np.ndarray) -> None:
    """Mean, variance, skewness, excess: each within 4.1 of its standard deviations (4e-5); detects .3 % of variance."""
    z = [
        numbers.mean() * np.sqrt(N),
        (numbers.var() - 1) * np.sqrt(N / 2),
        stats.skew(numbers) * np.sqrt(N / 6),
        stats.kurtosis(numbers) * np.sqrt(N / 24),
    ]
    assert np.abs(z).max() < 4.1, z


def test_distribution_and_tails(numbers: np.ndarray) -> None:
    """Chi-square over 200 equally likely bins, and of the counts beyond 3, 3.5, 4, 4.5 on both sides."""
    edges = stats.norm.ppf(np.arange(1, 200) / 200)
    counts = np.bincount(np.searchsorted(edges, numbers), minlength=200)
    assert stats.chisquare(counts).pvalue > 1e-4
    edges = np.array([-4.5, -4, -3.5, -3, 3, 3.5, 4, 4.5])
    counts = np.bincount(np.searchsorted(edges, numbers), minlength=9)
    assert stats.chisquare(counts, N * np.diff(stats.norm.cdf(edges), prepend=0, append=1)).pvalue > 1e-4


def test_numbers_are_uncorrelated(numbers: np.ndarray) -> None:
    """Numbers and squares: of neighbours, of a pair, of a block, of products, of keys; 10 values, 4.4 s.d. (1e-4)."""
    quarter = N // 4
    stream = NoiseStream(torch.Generator().manual_seed(20))
    stream.next()
    following = stream.normals(N).astype(np.float64)
    other = NoiseStream(torch.Generator().manual_seed(21)).normals(N).astype(np.float64)
    pairs = [
        (numbers[:-1], numbers[1:]),
        (numbers[:quarter], numbers[quarter : 2 * quarter]),
        (numbers[:quarter], numbers[2 * quarter : 3 * quarter]),
        (numbers, following),
        (numbers, other),
    ]
    for a, b in pairs:
        for x, y in ((a, b), (a**2 - 1, b**2 - 1)):
            assert abs((x * y).mean()) / (x.std() * y.std()) * np.sqrt(len(x)) < 4.4


def test_a_stream_is_its_seed_and_its_counter() -> None:
    a, b = (NoiseStream(torch.Generator().manual_seed(3)) for _ in range(2))
    first, second = a.normals(10), a.normals(70)
    assert (b.normals(10) == first).all()
    assert (b.normals(70) == second).all()
    b.drawn = 0
    assert (b.normals(10) == first).all()
    assert not np.isin(first, second).any()
