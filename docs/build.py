"""Build the API reference: one page a module, from the docstrings, without a single warning.

    uv run python docs/build.py site              # then open site/index.html

What counts as an error, with the module named: a module that does not import or has no ``__all__``, any warning of
pdoc, a public name without a docstring, and a reference in a docstring, such as ``models.lif`` or ``adapters.nir``,
that leads nowhere. Toolchains are loaded when they are used, so that all modules import without any.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import ovonic

__all__ = ["build", "dangling", "modules", "names", "undocumented"]

PACKAGES = ("ovonic.models", "ovonic.adapters", "ovonic.tasks", "ovonic.validation")
REFERENCE = re.compile(r"``(?:ovonic\.)?((?:models|adapters|tasks|validation)(?:\.[a-zA-Z_]\w*)+)``")


def modules(package: str) -> list[str]:
    """The public modules of a package."""
    found = importlib.import_module(package)
    return [f"{package}.{entry.name}" for entry in pkgutil.iter_modules(found.__path__) if entry.name[0] != "_"]


def names(module: ModuleType) -> list[str]:
    """What a module says is public.

    Raises: AttributeError: it has no ``__all__``, or names there what it has not.
    """
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    if missing:
        raise AttributeError(f"{module.__name__}.__all__ names {missing}, which it has not")
    return list(module.__all__)


def undocumented(module: ModuleType) -> Iterator[str]:
    """A module and its public functions and classes that lack a docstring; one that a dataclass made is none."""
    if not (module.__doc__ or "").strip():
        yield module.__name__
    for name in names(module):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__ != module.__name__:
            continue
        if not (value.__doc__ or "").strip():
            yield f"{module.__name__}.{name}"
        if inspect.isclass(value) and (value.__doc__ or "").startswith(f"{name}("):
            yield f"{module.__name__}.{name} (its docstring is the one that is made for dataclasses)"


def dangling(module: ModuleType) -> Iterator[str]:
    """References from a module's docstrings to modules and names that are not there."""
    texts = [module.__doc__ or ""]
    for name in names(module):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            texts.append(inspect.getdoc(value) or "")
    for text in texts:
        for path in REFERENCE.findall(text):
            if not _leads_somewhere(path.split(".")):
                yield f"{module.__name__}: ``{path}``"


def _leads_somewhere(parts: list[str]) -> bool:
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module("ovonic." + ".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def _known_at(fullname: str) -> dict[str, object]:
    """The names that the annotations of a class or function may use: of its module, its type parameters, its bases.

    pdoc 16 looks for those of a NamedTuple where NamedTuple made it, and for none of PEP 695's type parameters.
    """
    parts = fullname.split(".")
    length = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in sys.modules)
    value: Any = sys.modules[".".join(parts[:length])]
    known = dict(vars(value))
    for part in parts[length:]:
        value = getattr(value, part, None)
        for base in reversed(getattr(value, "__mro__", ())):
            known |= vars(sys.modules[base.__module__])
        known |= {parameter.__name__: parameter for parameter in getattr(value, "__type_params__", ())}
    return known


def build(out: Path) -> int:
    """Write the pages and return how many modules they document.

    Raises: Warning: whatever pdoc warns of.
    """
    import pdoc.doc
    import pdoc.doc_types
    import pdoc.render

    for name in (name for package in PACKAGES for name in modules(package)):
        importlib.import_module(name)
    pdoc.render.configure(docformat="google", footer_text=f"ovonic {ovonic.__version__}")
    lazy = {name: getattr(ovonic, name) for name in ovonic.__all__}
    plain = pdoc.doc_types.safe_eval_type

    def evaluated(annotation: Any, globalns: Any, localns: Any, module: Any, fullname: str) -> Any:
        try:
            return pdoc.doc_types._eval_type(annotation, {**_known_at(fullname), **globalns}, localns)
        except (AttributeError, NameError):
            return plain(annotation, globalns, localns, module, fullname)

    with (
        warnings.catch_warnings(),
        patch.dict(vars(ovonic), lazy),
        patch.object(pdoc.doc, "safe_eval_type", evaluated),
        patch.object(pdoc.doc_types, "safe_eval_type", evaluated),
    ):
        warnings.simplefilter("error")
        pdoc.pdoc("ovonic", *PACKAGES, output_directory=out)
    return sum(1 for _ in out.rglob("*.html")) - 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the API reference.")
    parser.add_argument("out", type=Path, help="the folder that gets the pages")
    out = parser.parse_args().out
    found = [
        problem
        for package in PACKAGES
        for name in modules(package)
        for problem in (
            *undocumented(importlib.import_module(name)),
            *dangling(importlib.import_module(name)),
        )
    ]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{build(out)} modules: {out / 'index.html'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
