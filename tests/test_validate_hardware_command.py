"""``ovonic validate hardware`` refuses at once what it cannot draw or does not have; no study is measured here."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.validation import hardware


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--study training-noise --figures f",
            "--figures: the study training-noise has none; drawn are headline, parity, adaptation, updates",
        ),
        (
            "--only robot-q16-pcmm",
            "--only robot-q16-pcmm: no condition of the study headline; did you mean 'robot-q16-",
        ),
        ("--only nothing", "--only nothing: no condition of the study headline; choose one of 'fewshot-"),
        ("--study headlin --figures f", "did you mean 'headline'?"),
    ],
)
def test_refusals_are_one_line_before_any_work(
    options: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(hardware, "measure", never)
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "hardware", "--quiet", *options.split()]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert list(tmp_path.iterdir()) == []
