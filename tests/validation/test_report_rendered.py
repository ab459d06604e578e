"""The report in a real browser: its numbers are the JSON's, it fits a phone, and it asks the network for nothing.

Chromium renders the page without a window. A frame as wide as a phone or as a desk holds it; a script around the frame,
none in the page, reads what was laid out.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovonic.__main__ import main
from ovonic.validation.figures import weight_histograms
from ovonic.validation.report import At, Claim, Picture, Section, Table, look_up, write_report

pytestmark = pytest.mark.slow

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"),
)
LOOK = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, wide = page.documentElement;
  const seen = [...page.querySelectorAll('data')].map(d => [{...d.dataset}, d.value, d.textContent]);
  const hidden = [...page.querySelectorAll('data, img')].filter(e => !e.closest('details') && !e.offsetWidth).length;
  const images = [...page.images].map(i => [i.complete && i.naturalWidth > 0, i.alt]);
  const found = {seen, hidden, images, width: wide.scrollWidth, frame: wide.clientWidth,
                 title: page.title, sections: page.querySelectorAll('section').length};
  document.querySelector('pre').textContent = JSON.stringify(found);
};
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(PROGRAMS)} is installed")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything that a report can hold, long names and wide tables among it."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    ratio = {"ratio": 1.0654321, "low": 0.97, "high": 1.21}
    result: dict[str, Any] = {
        "command": "ovonic reproduce --out " + "x" * 200,
        "config": {"size": "small", "a/long/name" * 9: "v" * 300},
        "versions": {"ovonic": "0"},
        "part": {
            "accuracy": {"mean": 0.97123456789, "ci95": 0.00456},
            "ratio": ratio,
            "worst": 2.3e-16,
            "many": [{"mean": float(v), "ci95": 0.1} for v in rng.normal(size=60)],
            "count": 12345,
        },
    }
    command = "ovonic validate hardware --only fewshot-32bit-noise-blind-pcm-2592000s-5w5s --chips 30 --tasks 1000"
    claims = [
        Claim.about(result, "accuracy on alphabets never seen", At("part/accuracy"), ">=", 0.97, command),
        Claim.about(result, "error ÷ the twin's, " + "a-long-name-" * 9, At("part/ratio", "ratio"), "<=", 1.1, command),
        Claim.about(result, "relative difference", At("part/worst", "number"), "<=", 1e-10, command),
        Claim.about(result, "not there", At("part/absent", "number"), "<=", 1.0, command),
    ]
    columns = ("Condition", *(f"column {i}, of some length" for i in range(12)))
    wide = [[f"row {r}", *(At(f"part/many/{12 * r + i}", "number") for i in range(12))] for r in range(5)]
    picture = Picture.of(weight_histograms(rng.normal(size=(2, 1, 5, 8))), command)
    sections = [
        Section("One", f"Text with `{command}`.", claims, [Table("Wide", columns, wide, command)], [picture]),
        Section("Two", "More.", [claims[2]], [Table("t", ("a", "b"), [["n", At("part/count", "number")]])], [picture]),
    ]
    write_report(folder, sections, result)
    return folder


def browse(chromium: str, folder: Path, page: Path, *options: str) -> str:
    """The document of a page after it was laid out."""
    profile = folder / "profile"
    ran = subprocess.run(
        [chromium, *OPTIONS, *options, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    shutil.rmtree(profile, ignore_errors=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user gets: the arm's part and the paper's table of ``ovonic reproduce``."""
    folder = tmp_path_factory.mktemp("reproduced")
    line = ["reproduce", "--only", "robot", "--only", "paper", "--out", str(folder), "--jobs", "0", "--quiet"]
    assert main(line) == 0
    return folder


def laid_out(chromium: str, folder: Path, width: int, tmp_path: Path) -> dict[str, Any]:
    """What ``LOOK`` sees of a report in a frame so wide, after what must hold of any."""
    page = (folder / "report.html").read_text()
    frame = f'<iframe style="border:0;width:{width}px;height:800px" srcdoc="{html.escape(page)}"></iframe>'
    around = tmp_path / "around.html"
    around.write_text(f"<!DOCTYPE html><body>{frame}<pre></pre><script>{LOOK}</script>")
    dom = browse(chromium, tmp_path, around, "--window-size=1400,900")
    found: dict[str, Any] = json.loads(html.unescape(dom.rpartition("<pre>")[2].partition("</pre>")[0]))
    assert found["title"] == "Ovonic"
    assert width - 20 < found["frame"] <= width  # a scroll bar
    assert found["width"] <= found["frame"]
    assert found["hidden"] == 0
    assert all(complete and alt.strip() for complete, alt in found["images"])
    return found


def in_json(kept: dict[str, Any], place: dict[str, str]) -> float:
    """The number that stands at a place of the JSON."""
    value = float(look_up(kept, place["path"]))
    if "over" in place:
        return value / float(look_up(kept, place["over"]))
    return value - float(look_up(kept, place["minus"])) if "minus" in place else value


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_numbers_are_the_json_s_and_nothing_is_wider_than_the_screen(
    width: int, chromium: str, folder: Path, tmp_path: Path
) -> None:
    found, kept = laid_out(chromium, folder, width, tmp_path), json.loads((folder / "report.json").read_text())
    assert len(found["images"]) == 2
    assert len(found["seen"]) > 70
    for place, value, text in found["seen"]:
        assert float(value) == in_json(kept, place)
        shown = float(text.replace("−", "-"))
        scale = 100 if place["path"].startswith("part/accuracy") else 1
        assert shown == pytest.approx(scale * float(value), rel=0.06, abs=0.006)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_real_report_too(width: int, chromium: str, reproduced: Path, tmp_path: Path) -> None:
    found, kept = laid_out(chromium, reproduced, width, tmp_path), json.loads((reproduced / "report.json").read_text())
    assert len(found["images"]) == 6
    placed = [(place, value) for place, value, _ in found["seen"] if "path" in place]
    assert len(placed) > 100
    for place, value in placed:
        assert float(value) == in_json(kept, place), place


def asked(log: Path) -> list[str]:
    """Addresses that a page, and not the browser itself, asked for beside itself."""
    events = json.loads(log.read_text())["events"]
    starts = [event.get("params", {}) for event in events]
    found = [(p["url"], p["initiator"]) for p in starts if "url" in p and "initiator" in p]
    return [url for url, initiator in found if initiator != "not an origin" and re.match("https?:|wss?:", url)]


def test_the_page_asks_the_network_for_nothing(chromium: str, folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    dom = browse(chromium, tmp_path, folder / "report.html", f"--log-net-log={log}")
    assert dom.count("<data ") == (folder / "report.html").read_text().count("<data ")
    assert asked(log) == []
    told = tmp_path / "tells.html"
    told.write_text('<img src="http://127.0.0.1:9/x.png">')
    browse(chromium, tmp_path, told, f"--log-net-log={log}")
    assert asked(log) == ["http://127.0.0.1:9/x.png"]


def test_it_prints(chromium: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.pdf"
    profile = tmp_path / "profile"
    options = [*OPTIONS, f"--user-data-dir={profile}", f"--print-to-pdf={file}", "--no-pdf-header-footer"]
    page = (folder / "report.html").as_uri()
    subprocess.run([chromium, *options, page], capture_output=True, timeout=300, check=True)
    assert file.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", file.read_bytes())) >= 2
