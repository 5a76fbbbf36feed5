"""The `jaxsep` command: its subcommands, and how errors become exit statuses.

Nothing here, nor at the top of any subcommand's file, imports jax: `jaxsep --help` answers at once.
"""

import functools
import gc
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from jaxsep import unfinished
from jaxsep.cli import compare, convert, env, evaluate, info, models, plot, separate
from jaxsep.cli.interrupt import end_at_once, end_on_signals
from jaxsep.cli.runtime import check_working_directory, import_jax, is_jax_set_by_the_environment
from jaxsep.cli.streams import forgive_lost_messages, lost_output
from jaxsep.environment import expand_home
from jaxsep.errors import ConfigError, JaxsepError, in_a_sentence, is_lack_of_memory
from jaxsep.version import __version__

FAILED, USAGE = 1, 2
_HELP = frozenset(["-h", "--help"])


def _with_exit_status(
    command: Callable[..., int | None], *, tells: bool = False, computes: bool = True
) -> Callable[..., NoReturn]:
    """Makes a subcommand exit: 0 all done, 1 something failed, 2 usage, 130 interrupted; errors are one sentence.

    Args:
        command: What does the work. A `~` at the beginning of its paths is the home directory, which shells leave to
            the command after `--output=`.
        tells: Whether its text is all that it gives, so that losing that is a failure.
        computes: Whether it imports JAX at some place, which may fail by what the environment sets.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> NoReturn:
        try:
            check_working_directory()
            if computes and is_jax_set_by_the_environment():
                import_jax()
            paths = {name: expand_home(value) for name, value in kwargs.items() if isinstance(value, Path)}
            status = command(*args, **{**kwargs, **paths}) or 0
        except (JaxsepError, OSError, MemoryError, ImportError, RuntimeError) as error:
            if isinstance(error, ImportError | RuntimeError) and not is_lack_of_memory(error):
                raise
            print(f"jaxsep: {in_a_sentence(error)}", file=sys.stderr)
            status = USAGE if isinstance(error, ConfigError) else FAILED
        raise typer.Exit(_told(status) if tells else status)

    return run


def _told(status: int) -> int:
    """Returns the status of a command whose text is all that it gives."""
    if status or (reason := lost_output()) is None:
        return status
    print(f"jaxsep: Standard output cannot be written: {reason}.", file=sys.stderr)
    return FAILED


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
_telling = functools.partial(_with_exit_status, tells=True)
app.command("separate")(_with_exit_status(separate.separate))
app.command("evaluate")(_with_exit_status(evaluate.evaluate))
app.command("plot")(_with_exit_status(plot.plot))
models_app = typer.Typer(cls=_ListByDefault, help="List the published models, or pull one.")
models_app.command("list")(_telling(models.list_catalogue, computes=False))
models_app.command("pull")(_with_exit_status(models.pull, computes=False))
app.add_typer(models_app, name="models")
compare_app = typer.Typer(no_args_is_help=True, help="Compare frameworks on the same network and weights.")
compare_app.command("speed")(_with_exit_status(compare.speed))
compare_app.command("parity")(_with_exit_status(compare.parity))
compare_app.command("study")(_with_exit_status(compare.study))
app.add_typer(compare_app, name="compare")
app.command("info")(_telling(info.info))
app.command("convert")(_with_exit_status(convert.convert))
app.command("env")(_telling(env.env))


def _version(requested: bool) -> bool:
    if requested:
        print(f"jaxsep {__version__}")
        raise typer.Exit(_told(0))
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
    forgive_lost_messages()
    end_on_signals()
    # What is made while jax is imported and programs are traced, 300,000 objects, lives to the end: to look through it
    # for garbage again and again costs 0.2 s of every run.
    gc.set_threshold(400_000, 50, 50)
    try:
        app()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        end_at_once(status if _HELP.isdisjoint(sys.argv) else _told(status))
    except BaseException:  # a fault of ours
        traceback.print_exc()
        with unfinished.changing_names:
            unfinished.discard_all()
        end_at_once(FAILED)
