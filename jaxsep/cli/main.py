"""The `jaxsep` command: its subcommands, and how errors become exit statuses.

Nothing here, nor at the top of any subcommand's file, imports jax: `jaxsep --help` answers at once.
"""

import functools
import gc
import io
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from jaxsep.cli import compare, convert, env, evaluate, info, models, plot, separate
from jaxsep.cli.interrupt import end_at_once, end_on_signals
from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.version import __version__

FAILED, USAGE = 1, 2


def _with_exit_status(command: Callable[..., int | None]) -> Callable[..., NoReturn]:
    """Makes a subcommand exit: 0 all done, 1 something failed, 2 usage, 130 interrupted; errors are one sentence."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> NoReturn:
        try:
            status = command(*args, **kwargs) or 0
        except JaxsepError as error:
            print(f"jaxsep: {error}", file=sys.stderr)
            status = USAGE if isinstance(error, ConfigError) else FAILED
        raise typer.Exit(status)

    return run


class _QuickHelp(TyperGroup):
    """Makes `jaxsep SUBCOMMAND --help` answer without pydantic.

    An option that is not given has its default, and typer passes all but booleans through pydantic, whose import costs
    as much as a third of the answer. The default of its own --help is None.
    """

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


class _ListByDefault(_QuickHelp):
    """Makes `jaxsep models` do what `jaxsep models list` does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(
    name="jaxsep",
    cls=_QuickHelp,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("separate")(_with_exit_status(separate.separate))
app.command("evaluate")(_with_exit_status(evaluate.evaluate))
app.command("plot")(_with_exit_status(plot.plot))
models_app = typer.Typer(cls=_ListByDefault, help="List the published models, or pull one.")
models_app.command("list")(_with_exit_status(models.list_catalogue))
models_app.command("pull")(_with_exit_status(models.pull))
app.add_typer(models_app, name="models")
compare_app = typer.Typer(no_args_is_help=True, help="Compare frameworks on the same network and weights.")
compare_app.command("speed")(_with_exit_status(compare.speed))
compare_app.command("parity")(_with_exit_status(compare.parity))
compare_app.command("study")(_with_exit_status(compare.study))
app.add_typer(compare_app, name="compare")
for subcommand in (info.info, convert.convert, env.env):
    app.command(subcommand.__name__)(_with_exit_status(subcommand))


def _version(requested: bool) -> bool:
    if requested:
        print(f"jaxsep {__version__}")
        raise typer.Exit
    return requested


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Music source separation in JAX: takes songs apart into vocals, drums, bass and the rest."""


def main() -> None:
    """Runs the command line. SIGTERM ends it as Ctrl-C does: nothing half-written stays behind."""
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # File names are bytes; not all of them are text in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # What is made while jax is imported and programs are traced, 300,000 objects, lives to the end: to look through it
    # for garbage again and again costs 0.2 s of every run.
    gc.set_threshold(400_000, 50, 50)
    try:
        app()
    except SystemExit as end:
        end_at_once(end.code if isinstance(end.code, int) else int(end.code is not None))
