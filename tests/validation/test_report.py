"""The HTML report: its numbers are the JSON's, its verdicts honest, its text inert, its bytes complete."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.models.errors import ConfigError
from ovonic.tasks.fewshot_evaluation import Evaluation
from ovonic.validation.fewshot_tables import baselines_table, systems_table
from ovonic.validation.figures import weight_histograms
from ovonic.validation.report import (
    At,
    Claim,
    Picture,
    Section,
    Table,
    html_report,
    write_report,
)

VOID = {"meta", "img", "br", "link", "hr", "input"}
HOSTILE = "</title><script>alert('1')</script>\"'&<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A strict reader: every tag closes in order; texts of the elements asked for are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.data.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "data":
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + data)


def result() -> dict[str, Any]:
    """Software alone, and hardware with its twin, as evaluations report them."""
    rng = np.random.default_rng(0)
    software = rng.binomial(25, [0.2, 0.97], (40, 2)) / 25
    baselines = {"nearest_class_mean": rng.binomial(25, 0.98, 40) / 25, "pixels_ridge": rng.binomial(25, 0.6, 40) / 25}
    nothing = cast(Any, None)

    def report(hardware: np.ndarray | None) -> dict[str, Any]:
        counts = {} if hardware is None else {"devices_reprogrammed": np.ones((*hardware.shape[:2], 1))}
        return Evaluation(software, hardware, baselines, counts, nothing, nothing, nothing, 0).report()

    return {
        "command": "ovonic reproduce --out 'a b'",
        "fewshot": {"soft": report(None), "pcm": report(rng.binomial(25, [0.2, 0.95], (3, 40, 2)) / 25)},
        "config": {"way": 5, "hardware": {"chips": 3, "noise_model": "pcm"}, "data": ["glyphs"], "none": None},
        "versions": {"ovonic": "0.1.0"},
    }


def sections(of: dict[str, Any]) -> list[Section]:
    figure = weight_histograms(np.random.default_rng(0).normal(size=(2, 1, 5, 8)))
    claims = [
        Claim.about(of, "software is good", At("fewshot/soft/accuracy"), ">=", 0.5),
        Claim.about(of, "hardware errs no more", At("fewshot/pcm/error_ratio", "ratio"), "<=", 0.5),
        Claim.about(of, "after a day", At("fewshot/day/error_ratio", "ratio"), "<=", 1.25),
    ]
    tables = [
        systems_table(of, {"software": "fewshot/soft", "PCM tiles": "fewshot/pcm"}),
        baselines_table(of, "fewshot/pcm"),
    ]
    return [Section("Few-shot", "One.\n\nTwo.", claims, tables, [Picture.of(figure, "ovonic fewshot evaluate")])]


def at(of: Any, path: str) -> Any:
    for step in path.split("/"):
        of = of[step]
    return of


class TestNumbers:
    def test_every_number_of_a_table_is_the_json_s(self, tmp_path: Path) -> None:
        measured = result()
        html, saved = write_report(tmp_path, sections(measured), measured)
        page, kept = Page(html.read_text()), json.loads(saved.read_text())
        placed = [(attrs, text) for attrs, text in page.data if "data-path" in attrs]
        assert len(placed) == len(page.data) > 20
        for attrs, text in placed:
            value = at(kept, str(attrs["data-path"]))
            assert float(str(attrs["value"])) == value
            digits = len(text.partition(".")[2])
            shown = float(text.replace("−", "-"))
            scale = 1 if re.search("ratio|tasks|chips/n", str(attrs["data-path"])) else 100
            assert shown == pytest.approx(scale * value, abs=0.5000001 * 10**-digits)
        paths = {attrs["data-path"] for attrs, _ in placed}
        assert {
            "fewshot/soft/accuracy/mean",
            "fewshot/soft/accuracy/ci95",
            "fewshot/pcm/error_ratio/high",
            "fewshot/pcm/chips/worst",
            "fewshot/pcm/software/accuracy/mean",
            "fewshot/pcm/baselines/nearest_class_mean/difference/mean",
        } <= paths

    def test_json_holds_the_result_and_the_verdicts(self, tmp_path: Path) -> None:
        measured = result()
        _, saved = write_report(tmp_path, sections(measured), measured)
        kept = json.loads(saved.read_text())
        assert [claim["held"] for claim in kept.pop("claims")] == [True, False, None]
        assert kept == measured
        assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]

    def test_a_number_that_is_not_there_is_an_error(self) -> None:
        table = Table("t", ("a", "b"), [["x", At("fewshot/nowhere")]])
        with pytest.raises(ConfigError, match="holds nothing at 'fewshot/nowhere'"):
            html_report([Section("s", tables=[table])], result())

    def test_intervals_that_do_not_exist_are_not_invented(self) -> None:
        odd = {"one": {"mean": 0.5, "ci95": None}, "ratio": {"ratio": None, "low": None, "high": None}, "none": None}
        table = Table("t", ("a", "b"), [["x", At("one")], ["y", At("ratio", "ratio")], ["z", At("none")]])
        text = Page(html_report([Section("s", tables=[table])], odd)).text
        assert "50.0" in text
        assert "±" not in text.partition("compared saw the same tasks")[2]
        assert "software makes no error" in text

    @pytest.mark.parametrize(
        ("mean", "half", "shown"),
        [
            (0.0011521, 0.0000703, "0.001152 ± 0.000070"),
            (0.3312, 0.0271, "0.331 ± 0.027"),
            (137.6, 6.3, "137.6 ± 6.3"),
            (480.2, 31.0, "480 ± 31"),
            (4.0, 0.0, "4 ± 0"),
        ],
    )
    def test_a_plain_number_shows_as_many_digits_as_its_interval_is_worth(
        self, mean: float, half: float, shown: str
    ) -> None:
        of = {"n": {"mean": mean, "ci95": half}}
        page = html_report([Section("s", tables=[Table("t", ("a", "b"), [["x", At("n", "number")]])])], of)
        assert shown in Page(page).text.replace("\N{NO-BREAK SPACE}", " ")


class TestClaims:
    @pytest.mark.parametrize(
        ("relation", "threshold", "held"), [(">=", 0.9, True), (">=", 0.91, False), ("<=", 0.9, True)]
    )
    def test_verdict_follows_from_the_numbers(self, relation: Any, threshold: float, held: bool) -> None:
        assert Claim("x", 0.9, threshold, relation).held is held

    def test_the_verdict_is_close_where_the_interval_holds_the_threshold(self) -> None:
        of = {"a": {"mean": 0.9, "ci95": 0.02}, "r": {"ratio": 1.2, "low": 0.9, "high": None}}
        assert Claim.about(of, "x", At("a"), ">=", 0.91).close
        assert not Claim.about(of, "x", At("a"), ">=", 0.93).close
        assert Claim.about(of, "x", At("r", "ratio"), "<=", 9.0).close
        assert not Claim.about(of, "x", At("r", "ratio"), "<=", 0.5).close
        assert not Claim("x", 0.9, 0.9, ">=").close

    def test_a_median_with_its_ends_is_an_interval(self) -> None:
        of = {"m": {"median": 20.96, "low": 19.0, "high": 23.0}}
        claim = Claim.about(of, "x", At("m", "tenths"), "<=", 21.0)
        assert (claim.measured, claim.low, claim.high, claim.path) == (20.96, 19.0, 23.0, "m/median")
        assert claim.held
        assert claim.close
        text = Page(html_report([Section("s", claims=[claim])], of)).text
        assert "21.0 (19.0 to 23.0)" in text
        assert "at most 21.0" in text

    def test_claims_that_failed_are_named_first_and_said_in_words(self) -> None:
        measured = result()
        text = Page(html_report(sections(measured), measured)).text
        summary, _, rest = text.partition("Few-shot")
        assert "1 of 3 claims held." in summary
        assert "Not held: hardware errs no more." in summary
        assert "Not measured: 1." in summary
        for words in ("✓ held", "✗ not held", "– not measured", "at most 0.50", "at least 50.0\N{NO-BREAK SPACE}%"):
            assert words in rest

    def test_a_page_without_claims_makes_no_summary(self) -> None:
        assert "claims held" not in html_report([Section("s")], {})


class TestPage:
    def test_it_is_one_file_that_asks_no_network(self) -> None:
        measured = result()
        page = Page(html_report(sections(measured), measured))
        images = [attrs for tag, attrs in page.tags if tag == "img"]
        assert len(images) == 1
        for attrs in images:
            assert str(attrs["alt"]).strip()
            assert str(attrs["src"]).startswith("data:image/png;base64,")
            assert int(str(attrs["width"])) > int(str(attrs["height"])) > 0
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"}
        for _, attrs in page.tags:
            for name in ("href", "src", "action", "poster"):
                address = attrs.get(name) or "data:"
                assert address.startswith(("data:", "https://doi.org/10."))
            assert not [name for name in attrs if name.startswith("on")]
        style = html_report(sections(measured), measured).partition("<style>")[2].partition("</style>")[0]
        assert "url(" not in style
        assert "@import" not in style
        for query in ("prefers-color-scheme:dark", "max-width:40rem", "@media print"):
            assert query in style

    def test_command_config_and_versions_end_the_page(self) -> None:
        text = Page(html_report([Section("s")], result())).text
        for part in ("ovonic reproduce --out 'a b'", "hardware.noise_model", '["glyphs"]', "0.1.0", "null"):
            assert part in text.partition("How this was made")[2]

    def test_commands_within_a_text_are_set_as_code(self) -> None:
        page = html_report([Section("s", "Type `ovonic <name>`.\n\nA lone ` stays.")], {})
        assert "<p>Type <code>ovonic &lt;name&gt;</code>.</p><p>A lone ` stays.</p>" in page

    def test_hostile_text_stays_text_wherever_it_enters(self) -> None:
        measured = {"n": 1.0, "command": HOSTILE, "config": {HOSTILE: HOSTILE}, "versions": {HOSTILE: {HOSTILE: 1}}}
        png = Picture.of(weight_histograms(np.ones((1, 1, 1, 1))), "c").png
        hostile = Section(
            HOSTILE,
            HOSTILE,
            [Claim(HOSTILE, 1.0, 2.0, "<=", path=HOSTILE)],
            [Table(HOSTILE, (HOSTILE, HOSTILE), [[HOSTILE, (HOSTILE, At("n"))]])],
            [Picture(png, HOSTILE, HOSTILE, HOSTILE)],
        )
        page = Page(html_report([hostile], measured, title=HOSTILE, lead=HOSTILE, json_name=HOSTILE))
        assert "script" not in {tag for tag, _ in page.tags}
        assert sum(tag == "img" for tag, _ in page.tags) == 1
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert page.text.count(HOSTILE) >= 12

    @settings(deadline=None)
    @given(st.text(max_size=40))
    def test_any_text_comes_back_as_it_was(self, text: str) -> None:
        shown = " ".join(text.replace("\x00", "").replace("\r", " ").split())
        page = Page(html_report([Section("s", tables=[Table("t", ("a", "b"), [["x", text]])])], {}))
        assert shown in " ".join(page.text.replace("\x00", "").split())

    def test_a_picture_without_alternative_text_is_refused(self) -> None:
        png = Picture.of(weight_histograms(np.ones((1, 1, 1, 1))), "c").png
        with pytest.raises(ConfigError, match="alternative text"):
            html_report([Section("s", pictures=[Picture(png, " ", "cap", "cmd")])], {})
