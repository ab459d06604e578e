"""The API reference: every module imports, says what is public, documents it, and refers to what is there."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[1] / "docs" / "build.py"


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _build()
packages = pytest.mark.parametrize("package", reference.PACKAGES)


@packages
def test_every_public_name_has_a_docstring(package: str) -> None:
    names = reference.modules(package)
    assert len(names) > 20
    lacking = [problem for name in names for problem in reference.undocumented(importlib.import_module(name))]
    assert not lacking


@packages
def test_every_reference_leads_somewhere(package: str) -> None:
    names = reference.modules(package)
    assert not [problem for name in names for problem in reference.dangling(importlib.import_module(name))]


def test_what_is_looked_for_is_found() -> None:
    """A module with every gap: no docstring, one made by dataclass, none at all, a reference to nothing."""
    from dataclasses import dataclass

    module = ModuleType("gaps")
    module.__doc__ = "See ``models.lif``, ``adapters.nir.save_nir``, ``models.no`` and ``ovonic.tasks.robot.none``."

    def bare() -> None: ...

    @dataclass
    class Made:
        x: int

    for value in (bare, Made):
        value.__module__ = "gaps"
        setattr(module, value.__name__, value)
    module.__all__ = ["Made", "bare"]
    assert list(reference.dangling(module)) == ["gaps: ``models.no``", "gaps: ``tasks.robot.none``"]
    assert [problem.split()[0] for problem in reference.undocumented(module)] == ["gaps.Made", "gaps.bare"]
    module.__all__ = ["absent"]
    with pytest.raises(AttributeError, match="absent"):
        reference.names(module)
    module.__doc__ = ""
    module.__all__ = []
    assert list(reference.undocumented(module)) == ["gaps"]


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="needs pdoc, of the dev group")
    count = reference.build(tmp_path)
    pages = list(tmp_path.rglob("*.html"))
    for package in reference.PACKAGES:
        for name in reference.modules(package):
            assert (tmp_path / (name.replace(".", "/") + ".html")).stat().st_size > 2000, name
    assert count == len(pages) - 1
    assert "presynaptic_trace" in (tmp_path / "ovonic" / "models" / "eligibility.html").read_text()
