"""How tracks are separated, as options of the commands that separate: `separate` and `evaluate`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxsep.errors import ConfigError

if TYPE_CHECKING:
    from jaxsep.separation.options import SeparationOptions

_PANEL = "How it is separated"
# The options by the keys of SeparationOptions that they set, where the names differ.
_NAMES = {"chunk_seconds": "--chunk"}


class Filter(StrEnum):
    """Filter behind a network on magnitudes."""

    auto = "auto"
    none = "none"
    wiener = "wiener"


class Precision(StrEnum):
    """Type that the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


ChunkOption = Annotated[
    float | None,
    typer.Option(
        "--chunk",
        "--segment",
        metavar="SECONDS",
        help="How much is estimated at a time, rounded up to what the network takes.",
        show_default="as published",
        rich_help_panel=_PANEL,
    ),
]
OverlapOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE|N",
        help="Fraction that neighbouring chunks share, below 1, or how many chunks see each sample, from 2 on.",
        show_default="as published",
        rich_help_panel=_PANEL,
    ),
]
ShiftsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Average the estimates of N random time shifts.",
        show_default="as published: none",
        rich_help_panel=_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="What time shifts are drawn from.", rich_help_panel=_PANEL)]
FilterOption = Annotated[
    Filter,
    typer.Option(help="'auto' is what the published model does.", rich_help_panel=_PANEL),
]
WienerOption = Annotated[
    bool,
    typer.Option("--wiener", help="Short for --filter wiener: the multichannel Wiener filter.", rich_help_panel=_PANEL),
]
WienerIterationsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Iterations of the Wiener filter.", show_default="as it has", rich_help_panel=_PANEL
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="What the network computes in; chunks that do not come out finite are computed again in float32.",
        rich_help_panel=_PANEL,
    ),
]


def separation_options(
    *,
    chunk: float | None,
    overlap: float | None,
    shifts: int | None,
    seed: int,
    filter: Filter,
    wiener: bool,
    wiener_iterations: int | None,
    precision: Precision,
) -> "SeparationOptions":
    """Returns the options as the library takes them.

    Raises:
        ConfigError: A value is not allowed, or two contradict each other.
    """
    from jaxsep.separation.options import SeparationOptions

    if wiener and filter is Filter.none:
        raise ConfigError("--wiener and --filter none contradict each other; use one of them.")
    values = {
        "chunk_seconds": chunk,
        "overlap": overlap,
        "shifts": shifts,
        "seed": seed,
        "filter": "wiener" if wiener else filter.value,
        "wiener_iterations": wiener_iterations,
        "precision": precision.value,
    }
    return validated(SeparationOptions, values, _NAMES)


def validated(config: Any, values: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """Returns a config made of options.

    Args:
        config: Class of the config; pydantic, which `--help` does without, is imported with it.
        values: Values by the config's keys.
        names: Names of the options whose names are not those of their keys.

    Raises:
        ConfigError: A value is not allowed, in words of the command line.
    """
    import pydantic

    try:
        return config.model_validate(dict(values))
    except pydantic.ValidationError as error:
        finding = error.errors()[0]
        key = str(finding["loc"][0]) if finding["loc"] else ""
        message = finding["msg"].removeprefix("Value error, ")
        if not key:
            raise ConfigError(f"{message}.") from None
        option = names.get(key, f"--{key.replace('_', '-')}")
        raise ConfigError(f"{option} is '{finding['input']}': {message[0].lower()}{message[1:]}.") from None
