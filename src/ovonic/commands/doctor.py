"""``ovonic doctor``: does each toolchain work here?"""

from __future__ import annotations

from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Quiet, progress, write_json

COLOURS = {"works": "green", "broken": "red", "absent": "yellow"}


def doctor(
    toolchains: Annotated[list[str] | None, typer.Argument(help="Only these; by default all.")] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds after which one counts as broken.")] = 180.0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run one real operation in every toolchain, and name the cure where one is broken.

    Exit status: 0 if every toolchain that is installed works, 1 otherwise (an absent one is no failure).
    """
    from ovonic.doctor import CHECKS, check_names, examine_all

    names = check_names(toolchains or list(CHECKS))
    findings = []
    with progress("examining", len(names), quiet) as advance:
        for finding in examine_all(names, timeout):
            findings.append(finding)
            advance(toolchain=finding.name)
    healthy = all(finding.verdict != "broken" for finding in findings)
    write_json(json, "doctor", {"healthy": healthy, "toolchains": findings}, {"timeout_s": timeout})
    if str(json) != "-":
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("toolchain", "version", "verdict", "what was run", "seconds")
        for f in findings:
            what = f.what if f.error is None else f"{f.what}: {f.error}"
            verdict = Text(f.verdict, COLOURS[f.verdict])
            table.add_row(f.name, f.version or "-", verdict, Text(what), f"{f.seconds:.1f}")
        console = Console()
        console.print(table)
        for f in findings:
            if f.cure:
                console.print(Text(f"{f.name}: {f.cure}"), soft_wrap=True)
        if any(f.cure for f in findings):
            console.print("(in an environment made by uv: uv pip install in place of pip install)")
    if not healthy:
        raise typer.Exit(1)
