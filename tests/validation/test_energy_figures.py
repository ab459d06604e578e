"""Figures of energy: what they show is what was computed, in captions that say so."""

from pathlib import Path

import pytest

from ovonic.models.accounting import Counts, Interval, estimate, tornado
from ovonic.models.deployment_costs import alternatives, robot
from ovonic.models.errors import ConfigError
from ovonic.validation.energy_figures import break_even_figure, cost_table, in_si, parts_figure, tornado_figure
from ovonic.validation.figure_style import alt_text, caption

COUNTS = Counts(mvms=100, phases=100, devices_programmed=50, elements=1000)


@pytest.mark.parametrize(
    ("value", "said"), [(13.4e-9, "13.4 nJ"), (0, "0 J"), (999.9, "1e+03 J"), (2.5e7, "25 MJ"), (4e-16, "0.4 fJ")]
)
def test_values_with_prefixes(value: float, said: str) -> None:
    assert in_si(value, "J") == said


@pytest.mark.parametrize("quantity", ["energy", "latency"])
def test_a_bar_for_each_parameter_that_matters(quantity: str) -> None:
    figure = tornado_figure(COUNTS, quantity=quantity, what="a test", most=4)
    axes = figure.axes[0]
    swings = {(s.at_low, s.at_high) for s in tornado(COUNTS, quantity=quantity)}
    drawn = [(bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert len(drawn) == 8
    ends = {round(end, 20) for pair in swings for end in pair}
    assert all(round(end, 20) in ends for end in drawn)
    total = estimate(COUNTS).energy_j if quantity == "energy" else estimate(COUNTS).latency_s
    assert in_si(total.typical, "J" if quantity == "energy" else "s") in caption(figure)
    assert "a test" in caption(figure)


def test_the_page_lists_every_default() -> None:
    page = Path(__file__).parents[2] / "docs" / "energy.md"
    assert cost_table() in page.read_text(encoding="utf-8")


def test_nothing_counted_is_nothing_to_draw() -> None:
    with pytest.raises(ConfigError, match="nothing was counted"):
        tornado_figure(Counts())
    with pytest.raises(ConfigError, match="no estimate"):
        parts_figure({})
    with pytest.raises(ConfigError, match="no alternative"):
        break_even_figure([], Interval(1, 1, 1))


def test_parts_and_break_even_say_what_was_computed() -> None:
    experiment = robot()
    ways = alternatives(experiment, draws=50)
    figure = break_even_figure(ways, Interval(1e5, 1e6, 1e7), what="lessons")
    assert len(figure.axes) == len(ways)
    for way in ways:
        assert way.break_even.verdict in alt_text(figure)
    parts = parts_figure({name: estimate(counts) for name, counts in experiment.array.items()})
    assert [tick.get_text() for tick in parts.axes[0].get_yticklabels()] == list(experiment.array)
    assert in_si(estimate(experiment.array["inference"]).energy_j.typical, "J") in caption(parts)
