"""``ovonic validate eprop``: its table, its JSON, its exit status, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.adapters.nir import save_nir
from ovonic.validation import gradients
from ovonic.validation.random_networks import recurrent_example

OWN = ["--references", "written-out,autograd", "--quiet", "--steps", "40"]


def _run(*args: str) -> int:
    try:
        return int(main(["validate", "eprop", *args]) or 0)  # type: ignore[func-returns-value]
    except SystemExit as end:
        return int(end.code or 0)


def test_random_networks_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert _run("random", "--networks", "3", *OWN, "--json", str(file), "--figures", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert said.count("agrees") == 2
    assert "beside the full gradient: cosine" in said
    found = json.loads(file.read_text())
    assert found["schema"] == "ovonic/validate-eprop/1"
    assert found["tolerance"] == gradients.TOLERANCE
    assert set(found["references"]) == {"written-out", "autograd"}
    assert all(row["agrees"] and row["worst"] <= 1e-10 for row in found["references"].values())
    assert len(found["episodes"]) == 6
    assert (tmp_path / "eprop_agreement.png").stat().st_size > 1000


def test_a_lesson_stands_beside_its_own_full_gradient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovonic.validation import gradients_summary

    monkeypatch.setattr(gradients_summary, "SIZES", (5,))
    monkeypatch.setattr(gradients_summary, "LENGTHS", (10,))
    file = tmp_path / "found.json"
    options = ["--references", "autograd", "--networks", "1", "--bptt", "--json", str(file), "--quiet"]
    assert _run("robot-q16", *options) == 0
    said = capsys.readouterr().out
    found = json.loads(file.read_text())["bptt"]
    (lesson,) = found["episodes"].values()
    assert f"robot-q16 beside the full gradient: cosine {lesson['cosine']:.3f}" in said
    assert 0.8 < lesson["cosine"] < 0.9
    assert lesson["difference"] > 1
    assert said.index("random LIF networks, whatever NETWORK is") < said.index("5 neurons,   10 steps")
    assert len(found["sweep"]) == 5


def test_a_rule_that_disagrees_gets_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradients, "factorised", lambda e: gradients.differentiated(e, gradients.ALL_PATHS))
    assert _run("random", "--networks", "2", *OWN) == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_a_network_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_nir(tmp_path / "net.nir", recurrent_example())
    assert _run(str(tmp_path / "net.nir"), "--networks", "1", *OWN) == 0
    assert capsys.readouterr().out.count("agrees") == 2


def test_bad_input_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, said in (
        (["random", "--references", "nest,brain2"], "did you mean 'brian2'"),
        (["random", "--references", ""], "--references : '': choose one of 'autograd'"),
        (["random", "--part", "lsg", *OWN], "--part"),
        ([str(tmp_path / "none.nir"), *OWN], "none.nir"),
    ):
        assert _run(*args) == 2
        assert said in capsys.readouterr().err
