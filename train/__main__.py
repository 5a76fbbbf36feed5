"""The command `python -m train`: options, one call, printing. The loop is in loop.py."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxsep.cli.runtime import check_working_directory, start_jax, use_compilation_cache
from jaxsep.cli.streams import console, forgive_lost_messages
from jaxsep.environment import expand_home, open_standard_descriptors, restart_with_tuned_malloc
from jaxsep.errors import ConfigError, JaxsepError, in_a_sentence

if TYPE_CHECKING:
    from train.config import RunConfig
    from train.loop import Outcome

# Of sysexits.h, 'try again': the run was told to stop and has saved its state; the same command goes on.
INTERRUPTED = 75
FAILED, USAGE = 1, 2
_GONE = "Another process of this run is gone or failed"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A recipe, such as configs/unet_2stems.yaml.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE...", help="Instead of what the recipe says.")
    ] = None,
    workdir: Annotated[
        Path, typer.Option(help="Where the run leaves what it leaves; where it is there already, it goes on.")
    ] = ...,  # type: ignore[assignment]
    check: Annotated[bool, typer.Option("--check", help="Look at config and every sample, and end.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes; the cluster tells which.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of process 0, where no cluster tells it.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many there are.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Which of them this is.")] = None,
) -> None:
    """Train a separation model.

    What it leaves behind separates songs: `jaxsep separate -m WORKDIR`. Exits with 0 when all steps are made, 1 when
    the run failed, 2 when something was asked for that cannot be, and 75 when it was told to stop (SIGTERM, Ctrl-C)
    and has saved its state.
    """
    logging.basicConfig(level=logging.WARNING, format="train: %(message)s", stream=sys.stderr)
    logging.getLogger("train").setLevel(logging.INFO)
    if coordinator is None and (processes is not None or process is not None):
        raise typer.BadParameter("they belong to --coordinator HOST:PORT", param_hint="--processes, --process")
    if coordinator is not None:
        if processes is None or process is None or process >= processes:
            raise typer.BadParameter("give --processes, and --process below it", param_hint="--coordinator")
        if status := _told(lambda: _check_coordinator(coordinator)):
            raise typer.Exit(status)
    if distributed or coordinator is not None:
        arguments = (config, overrides or [], workdir, check)
        raise typer.Exit(_supervised(lambda: _one_of_many(coordinator, processes, process, *arguments)))
    raise typer.Exit(_told(lambda: _train(config, overrides or [], workdir, check)))


def _told(work: Callable[[], int]) -> int:
    """Returns the exit status of the work; errors are one sentence."""
    try:
        return work()
    except (JaxsepError, OSError, MemoryError) as error:
        print(f"train: {in_a_sentence(error)}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED


def _check_coordinator(coordinator: str) -> int:
    from train.parallel import check_coordinator

    check_coordinator(coordinator)
    return 0


def _one_of_many(coordinator: str | None, processes: int | None, process: int | None, *arguments: Any) -> int:
    """Trains together with other processes."""
    from train.parallel import start_processes

    def give_up(sentence: str) -> None:
        print(f"train: {sentence}", file=sys.stderr, flush=True)
        os._exit(USAGE)

    def work() -> int:
        start_processes(coordinator, processes, process, give_up=give_up)
        return _train(*arguments)

    try:
        status = _told(work)
    except Exception as error:
        print(f"train: {_GONE} ({_first_line(error)}).", file=sys.stderr)
        status = FAILED
    if status not in (0, INTERRUPTED):
        # The others must not wait for this one, nor this one at its exit for those that are gone.
        sys.stderr.flush()
        os._exit(status)
    return status


def _supervised(work: Callable[[], int]) -> int:
    """Does the work in a child, and tells what became of it.

    Where the coordinator is gone, JAX's service may abort a process before that process can say a word.
    """
    held, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)

        def end_with_the_parent() -> None:
            os.read(held, 1)
            os._exit(FAILED)

        threading.Thread(target=end_with_the_parent, daemon=True).start()
        sys.exit(work())
    os.close(held)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child too
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(f"train: {_GONE} (this one was ended by {signal.Signals(-status).name}).", file=sys.stderr)
        return FAILED
    return status


def _train(path: Path, overrides: list[str], workdir: Path, check: bool) -> int:
    check_working_directory()
    path, workdir = expand_home(path), expand_home(workdir)
    start_jax()
    from train.config import load_config

    # What is refused is refused before what takes seconds is imported.
    config = load_config(path, overrides)
    import jax

    from train.checkpoints import silence_failed_writes
    from train.dataset_check import check_tracks
    from train.loop import run
    from train.problems import Problems
    from train.progress import shown_progress
    from train.run_check import check_run
    from train.tracks import Tracks, find_tracks
    from train.workdir import open_workdir

    _use_settings_of_training()
    use_compilation_cache()
    silence_failed_writes()
    first = jax.process_index() == 0
    problems = Problems()
    check_run(config, workdir, problems, devices=jax.device_count(), thorough=check)
    tracks = Tracks((), (), (), is_complete=False)
    with problems.noted():
        tracks = find_tracks(config.data, config.model, problems)
    report = check_tracks(tracks, config, thorough=check, problems=problems)
    if first:
        _print_check(report)
    if check:
        return 0
    stop = _StopRequest()
    with open_workdir(workdir, config):
        if not first:
            outcome = run(config, workdir, tracks, stop_requested=stop)
        else:
            _print_overview(config)
            with shown_progress(config.training.steps) as progress:

                def tell(row: dict[str, Any]) -> None:
                    _print_row(row)
                    progress.tell(row)

                outcome = run(config, workdir, tracks, stop_requested=stop, tell=tell, advance=progress.advance)
            _print_outcome(outcome, workdir)
    return INTERRUPTED if outcome.interrupted else 0


def _use_settings_of_training() -> None:
    """Has this process compute as recipes mean it, whatever the environment has set for other programs of JAX's."""
    import jax

    # Numbers of 64 bits are other numbers, and other random ones; what strict promotion and transfer guards would tell
    # is for those who write programs.
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_transfer_guard", "allow")


class _StopRequest:
    """Whether SIGTERM, Ctrl-C or the end of the terminal has come; a second one ends the process at once."""

    def __init__(self) -> None:
        self._came = False
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # What the caller has ignored (nohup, a shell's background) stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def __call__(self) -> bool:
        return self._came

    def _note(self, number: int, frame: Any) -> None:
        if self._came:
            os._exit(128 + number)
        self._came = True
        with suppress(OSError):  # a terminal that is gone
            os.write(2, b"train: stopping after this step; once more ends it at once\n")


def _print_overview(config: "RunConfig") -> None:
    """Prints the resolved config and how many parameters lie where."""
    import math

    import yaml
    from rich.table import Table

    from jaxsep.weights.tree import expected_shapes

    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())
    counts: dict[str, int] = {}
    for variable, shape in expected_shapes(config.model).items():
        kind, *rest = variable.split("/")
        if kind == "params":
            counts["/".join(rest[:2])] = counts.get("/".join(rest[:2]), 0) + math.prod(shape)
    table = Table(box=None, pad_edge=False)
    table.add_column("parameters of")
    table.add_column("count", justify="right")
    for place, count in {**counts, "all": sum(counts.values())}.items():
        table.add_row(place, f"{count:,}")
    console().print(table)


def _print_check(report: Any) -> None:
    print(report.describe())
    for warning in report.warnings:
        print(f"train: warning: {warning}", file=sys.stderr)


def _print_row(row: dict[str, Any]) -> None:
    from train.progress import number

    if "validation" in row:
        told = row["validation"]
        stems = ", ".join(f"{stem} {number(score, '.2f')}" for stem, score in told["stems"].items())
        score, loss = number(told["sdr"], ".2f"), number(told["loss"])
        print(f"step {row['step']}  validation SDR {score} dB ({stems})  loss {loss}", flush=True)
        return
    timing = row["timing"]
    wait = 100 * timing["loader_wait_seconds"] / timing["seconds_per_step"]
    print(
        f"step {row['step']}  epoch {row['epoch']:.4g}  loss {number(row['loss'])}  gradient "
        f"{number(row['gradient_norm'], '.3g')}  rate {row['learning_rate']:.3g}  "
        f"{timing['examples_per_second']:.2f} examples/s  waited for data {wait:.1f} %",
        flush=True,
    )


def _print_outcome(outcome: "Outcome", workdir: Path) -> None:
    best = "" if outcome.score is None else f", best validation SDR {outcome.score:.2f} dB"
    if outcome.interrupted:
        print(f"stopped and saved after step {outcome.step}{best}; the same command goes on")
    else:
        print(f"done after step {outcome.step}{best}; try: jaxsep separate -m {workdir} SONG")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


if __name__ == "__main__":
    open_standard_descriptors()
    restart_with_tuned_malloc()
    forgive_lost_messages()
    app(prog_name="python -m train")
