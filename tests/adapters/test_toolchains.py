"""Toolchains of others: registered at run time, or brought by an entry point; a broken one costs one clear error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovonic.__main__ import main
from ovonic.adapters.toolchains import (
    TOOLCHAINS,
    Unsupported,
    adapter,
    approximate,
    known,
    plugins,
    register,
    unregister,
)
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Spiking
from ovonic.models.simulation import run
from ovonic.validation.comparison import compare
from ovonic.validation.conformance import conformance
from ovonic.validation.random_networks import recurrent_example

PLAIN = SimpleNamespace(unsupported=lambda network: [], run=run)

MODULE = """
from ovonic.models.simulation import run

def unsupported(network):
    return []
"""


@pytest.fixture
def registered() -> Iterator[str]:
    register("plain-step", PLAIN)
    yield "plain-step"
    if "plain-step" in plugins():
        unregister("plain-step")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with entry points, on the path of this test alone."""

    def install(entries: str, distribution: str = "their_package", module: str = MODULE) -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[ovonic.toolchains]\n{entries}\n")
        (folder / f"{distribution}_adapter.py").write_text(module)
        monkeypatch.syspath_prepend(folder)

    return install


def test_a_registered_toolchain_is_one_like_the_others(registered: str) -> None:
    assert known() == (*TOOLCHAINS, *plugins())
    assert registered in plugins()
    assert adapter(registered) is PLAIN
    assert conformance(registered, 5).exact == 5
    found = compare(recurrent_example(), [registered], steps=50)
    assert [pair.verdict.identical for pair in found.pairs] == [True] * 3
    unregister(registered)
    assert registered not in known()
    with pytest.raises(ConfigError, match="toolchain 'plain-step'"):
        adapter(registered)


def test_what_cannot_be_registered(registered: str) -> None:
    for name, said in (("nest", "taken"), (registered, "taken"), ("a b", "a name is"), ("", "a name is")):
        with pytest.raises(ConfigError, match=said):
            register(name, PLAIN)
    with pytest.raises(ConfigError, match=r"has no function run: see docs/adding_a_toolchain\.md"):
        register("half", SimpleNamespace(unsupported=lambda network: []))
    with pytest.raises(ConfigError, match="was not registered"):
        unregister("norse")


def test_refusals_call_it_by_its_name(registered: str) -> None:
    network = recurrent_example()
    (hidden,) = network.names(Spiking)
    near = network.layers[hidden]
    toolchain = SimpleNamespace(
        unsupported=lambda network: [Unsupported(hidden, "Dynamics.reset", "no reset", "", near, "its reset")], run=run
    )
    register("stubborn", toolchain)
    try:
        with pytest.raises(UnsupportedDynamics, match="stubborn cannot run this network exactly"):
            approximate(toolchain, network, ())
    finally:
        unregister("stubborn")


def test_an_entry_point_brings_one(installed: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """By its name in Python and on the command line; with ``all`` too."""
    installed("theirs = their_package_adapter\nobject = their_package_adapter:toolchain", module=MODULE + OBJECT)
    assert plugins() == ("theirs", "object")
    assert adapter("theirs").__name__ == "their_package_adapter"
    assert compare(recurrent_example(), ["theirs", "object"], steps=30).pairs[1].verdict.identical
    assert main(["validate", "dynamics", "--networks", "3", "--toolchains", "theirs", "--quiet"]) == 0
    assert "theirs: of 3 networks 3 exact" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="did you mean 'theirs'"):
        adapter("their")


OBJECT = """
class Toolchain:
    unsupported = staticmethod(unsupported)
    run = staticmethod(run)

toolchain = Toolchain()
"""


@pytest.mark.parametrize(
    ("module", "entry", "said"),
    [
        ("import a_simulator_that_is_not_there", "", r"does not load \(ModuleNotFoundError: .*a_simulator"),
        ("raise RuntimeError('its licence is missing')", "", r"does not load \(RuntimeError: its licence"),
        ("def run(network, inputs): ...", "", "has no function unsupported: see docs/adding_a_toolchain.md"),
        ("", ":absent", r"does not load \(AttributeError"),
    ],
)
def test_a_broken_entry_point_is_one_clear_error(
    module: str, entry: str, said: str, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovonic.validation import comparison

    name = f"broken{len(module)}"
    installed(f"theirs = {name}_adapter{entry}", name, module)
    with pytest.raises(ToolchainError, match=rf"toolchain 'theirs' of {name} 1\.2 \(entry point .*\) {said}"):
        adapter("theirs")
    monkeypatch.setattr(comparison, "TOOLCHAINS", ())
    found = compare(recurrent_example(), "all", steps=20)
    assert "theirs" in found.unavailable
    assert list(found.traces) == [comparison.REFERENCE, comparison.ENGINE]


def test_a_broken_entry_point_on_the_command_line(
    installed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed("theirs = wrecked_adapter", "wrecked", "import a_simulator_that_is_not_there")
    assert _status("compare", "random", "--toolchains", "theirs", "--steps", "10", "-q") == 2
    said = capsys.readouterr().err
    assert "toolchain 'theirs' of wrecked 1.2" in said
    assert "Traceback" not in said


def _status(*arguments: str) -> int:
    try:
        return int(main(list(arguments)) or 0)  # type: ignore[func-returns-value]
    except SystemExit as end:
        return int(end.code or 0)


def test_names_that_are_taken(installed: Callable[..., None]) -> None:
    """One of ours is passed over with a warning, and stays ours; one that two distributions bring is an error."""
    installed("nest = first_adapter\nboth = first_adapter", "first")
    installed("both = second_adapter", "second")
    with pytest.warns(UserWarning, match="toolchain 'nest' of first 1.2 .* is passed over"):
        assert plugins() == ("both",)
    assert adapter("nest").__name__ == "ovonic.adapters.nest"
    with pytest.raises(ToolchainError, match=r"first 1.2 .* and .*second 1.2|second 1.2 .* and .*first 1.2"):
        adapter("both")
