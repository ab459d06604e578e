"""Commands that a report names, parsed by the real command line without running them."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from ovonic.__main__ import app
from ovonic.validation.report import Section

__all__ = ["check_commands", "commands_of", "parsed"]


def parsed(command: str) -> dict[str, Any]:
    """The parameters of a command, its path as ``command``; a usage error is raised."""
    program, *rest = shlex.split(command)
    assert program == "ovonic"
    node: Any = typer.main.get_command(app)
    context = node.make_context(program, rest)
    while hasattr(node, "resolve_command"):
        name, node, rest = node.resolve_command(context, [*context._protected_args, *context.args])
        context = node.make_context(name, rest, parent=context)
    return {**context.params, "command": context.command_path}


def commands_of(section: Section) -> list[str]:
    """Commands of every claim, table and picture; each must have one."""
    named = [*section.claims, *section.tables, *section.pictures]
    for thing in named:
        assert thing.command, thing
    return list(dict.fromkeys(thing.command for thing in named))


def check_commands(section: Section) -> None:
    """Each command is one that the command line takes."""
    assert commands_of(section)
    for command in commands_of(section):
        parsed(command)
