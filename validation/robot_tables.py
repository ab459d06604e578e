"""The tables of the robot part of ``ovonic reproduce``: every number by its place in the result."""

from __future__ import annotations

from collections.abc import Mapping

from ovonic.validation.report import At, Cell, Table, Unit

__all__ = ["robot_tables"]

CONTROLS = {"no_update": "no update", "random": "random signals", "shuffled": "signals of another movement"}
Row = list[Cell]


def robot_tables(networks: Mapping[str, str]) -> list[Table]:
    """Errors, controls, rates and changes, the pairing, and the published network's figures, network beside network.

    Args: networks: name in the result -> label.
    """
    labels = list(networks.values())
    twice = [f"{label}, {when}" for label in labels for when in ("before", "after")]
    with_ratio = [head for label in labels for head in (f"{label}, loss", "÷ taught")]
    here_and_cited = [f"{label}, {where}" for label in labels for where in ("here", "published")]
    return [
        Table("Errors before and after one update", ("Error of", *twice), _errors(networks)),
        Table("Loss after a lesson, and after those that cannot teach", ("Lesson", *with_ratio), _controls(networks)),
        Table("The networks at work", ("", *labels), _work(networks)),
        Table(
            "Rounded ÷ not rounded, after the update, on the same movements",
            ("", "Ratio of means", "Ratio of medians"),
            [
                [label, *(At(f"robot/paired/{key}/{of}", "ratio") for of in ("ratio_of_means", "ratio_of_medians"))]
                for label, key in (("Loss", "loss"), ("Tip error", "tip_rmse_mm"))
            ],
        ),
        Table(
            "After one update, here and of the published network (cited, on other movements)",
            ("Error of", *here_and_cited),
            _cited(networks),
        ),
    ]


def _row(networks: Mapping[str, str], label: str, unit: Unit, *places: str) -> Row:
    """The same places for each network."""
    return [label, *(At(place.format(name), unit) for name in networks for place in places)]


def _errors(networks: Mapping[str, str]) -> list[Row]:
    rows = [_row(networks, "loss", "number", "robot/{}/controls/no_update/loss", "robot/{}/loss")]
    for label, key in (("omega, mean square, (rad/s)²", "mse_omega"), ("x, y, z, mean square, m²", "mse_xyz")):
        places = (f"robot/{{}}/{key}/{when}" for when in ("before", "after"))
        rows.append(_row(networks, label, "number", *places))
    for label, key in (("tip, median, mm", "median"), ("tip, 95th percentile, mm", "p95")):
        places = (f"robot/{{}}/tip_rmse_mm/{when}/{key}" for when in ("before", "after"))
        rows.append(_row(networks, label, "tenths", *places))
    return rows


def _controls(networks: Mapping[str, str]) -> list[Row]:
    taught: Row = ["taught"]
    for name in networks:
        taught += [At(f"robot/{name}/loss", "number"), "–"]
    rows = [taught]
    for control, label in CONTROLS.items():
        row: Row = [label]
        for name in networks:
            row.append(At(f"robot/{name}/controls/{control}/loss", "number"))
            row.append(At(f"robot/control_ratio/{name}/{control}", "ratio"))
        rows.append(row)
    return rows


def _work(networks: Mapping[str, str]) -> list[Row]:
    return [
        _row(networks, "rate of the learning-signal generator, Hz", "tenths", "robot/{}/rates_hz/lsg/mean"),
        _row(networks, "rate of the trainee, Hz", "tenths", "robot/{}/rates_hz/trainee/mean"),
        _row(networks, "weights from the clock that changed, %", "percent", "robot/{}/update/W_in"),
        _row(networks, "weights within the trainee that changed, %", "percent", "robot/{}/update/W_rec"),
    ]


def _cited(networks: Mapping[str, str]) -> list[Row]:
    tip = "robot/{}/tip_rmse_mm/after/median"
    return [
        _row(networks, "loss", "number", "robot/{}/loss", "config/robot/published/{}/loss"),
        _row(networks, "tip, median, mm", "tenths", tip, "config/robot/published/{}/tip_median_mm"),
    ]
