"""The examples on device models do what they say, and their numbers are those of docs/devices.md."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = re.compile(r"\d*\.\d+")
PAGE = Path(__file__).parents[1] / "docs" / "devices.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("example", ["device_model"], indirect=True)
def test_a_model_of_ones_own_lives_on_an_array(example: ModuleType) -> None:
    """By its equations: gain 1 at the first read, (t / t_0)^-.005 later; less error than ``pcm``."""
    projected, pcm = example.errors(example.Projected(), rows=64), example.errors(example.device_model("pcm"), rows=64)
    for when, age in example.TIMES.items():
        gain, error = projected[when]
        assert gain == pytest.approx(((age + 20) / 20) ** -0.005, abs=0.003)
        assert error < 0.6 * pcm[when][1]
    assert torch.func.vmap(example.Projected().programming_sigma)(torch.ones(2, 4, 1, 1)).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("example", ["read_noise"], indirect=True)
def test_a_single_read_is_noisier_than_all_noise_of_the_reading_in_microsiemens(example: ModuleType) -> None:
    """The contradiction that settles the base of the exponent, at every conductance of the table."""
    relative, microsiemens = example.READINGS.values()
    for fraction in example.FRACTIONS:
        single = min(example.single_product(fraction).values())
        assert example.percent(microsiemens, fraction, 0.0) < single < example.percent(relative, fraction, 0.0)
    assert example.cap_us(relative) == pytest.approx(0.2046, abs=1e-4)


def _numbers(line: str) -> list[float]:
    return [float(x) for x in NUMBER.findall(line)]


@pytest.mark.parametrize("example", ["read_noise", "device_model"], indirect=True)
def test_the_page_shows_what_the_examples_print(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line, its numbers within 3 % (10 standard errors of 65,536 weights) or .01: a draw may differ."""
    example.main()
    page = [line for line in PAGE.read_text().splitlines() if line]
    for line in filter(None, capsys.readouterr().out.splitlines()):
        text = NUMBER.sub("#", line)
        alike = [other for other in page if NUMBER.sub("#", other) == text]
        assert any(_numbers(line) == pytest.approx(_numbers(other), rel=0.03, abs=0.01) for other in alike), line
