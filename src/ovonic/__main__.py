"""The command ``ovonic``: its sub-commands, and what each failure prints and returns.

Exit status: 0 success; 1 a check failed, a pipe broke, or a defect of ours; 2 bad input or usage, one line on standard
error; 130 Ctrl-C, with what was finished kept.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ovonic
from ovonic.commands import compare, convert, crossbar, doctor, fewshot, reproduce, robot, sweep, validate, weights
from ovonic.models.errors import OvonicError


class _Interrupted(Exception):
    """Ctrl-C, carried past typer, which would drop its message."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Interrupted(str(interrupt)) from interrupt
        except BrokenPipeError:
            _close_stdout()
            return 1


app = typer.Typer(
    name="ovonic", cls=_Group, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(fewshot.app, name="fewshot")
app.add_typer(robot.app, name="robot")
app.add_typer(weights.app, name="weights")
app.command("compare")(compare.compare)
app.add_typer(validate.app, name="validate")
app.command("convert")(convert.convert)
app.add_typer(crossbar.app, name="crossbar")
app.command("sweep", context_settings={"allow_interspersed_args": False})(sweep.sweep)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ovonic {ovonic.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learning to learn on simulated phase-change memory."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: those of the process) and return the exit status."""
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="ovonic", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except OvonicError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        _close_stdout()
        return 1
    except (_Interrupted, KeyboardInterrupt) as interrupt:
        return _fail(str(interrupt) or "what was finished is kept, nothing is half-written", 130, "interrupted")
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors have no public base class
            message = _usage(error)
            return _fail(message, 2) if message else 2  # none where the help was shown instead
        if os.environ.get("OVONIC_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(f"a defect of Ovonic: {what} (OVONIC_TRACEBACK=1 shows where; please report it)", 1)


def _fail(message: str, status: int, label: str = "error") -> int:
    print(f"{label}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage(error: Any) -> str:
    """One line for a mistyped command line, with the nearest option where one is close."""
    message = " ".join(error.format_message().split())
    if not message or (ctx := error.ctx) is None:
        return message
    if type(error).__name__ == "NoSuchOption":
        message = f"No such option: {error.option_name}."
        options = [option for parameter in ctx.command.params for option in parameter.opts]
        if close := difflib.get_close_matches(error.option_name, options, n=1):
            message += f" Did you mean {close[0]!r}?"
    return f"{message} ({ctx.command_path} --help)"


def _close_stdout() -> None:
    """Let nothing complain, at exit, about a reader that went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
