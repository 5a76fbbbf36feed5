"""Which files of a recording make up which stem of a model, and which tracks lack one that the others have."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxsep.errors import ConfigError
from jaxsep.evaluation.tracks import as_one_text
from train.config import DataConfig
from train.problems import Problems
from train.recordings import Recording, some_of

# Stems that are, where there is no file of their name, the sum of what no other stem claims.
_REMAINDERS = ("accompaniment", "other")
# A file that so many tracks in a hundred lack, or a single one, was forgotten; what more of them lack is no rule.
_FORGOTTEN_PERCENT = 10


class Assignment(NamedTuple):
    """What the parts of a recording are to a model.

    Attributes:
        stems: The parts of each stem.
        rest: Those that no stem has.
    """

    stems: tuple[tuple[str, ...], ...]
    rest: tuple[str, ...]


def assign(recording: Recording, data: DataConfig, stems: Sequence[str]) -> Assignment:
    """Says which parts of a recording make up which stem.

    Args:
        recording: The recording whose parts are assigned.
        data: Says which files each stem is summed of.
        stems: Names of the model's stems.

    Raises:
        ConfigError: A stem has no file, or a file is in two stems.
    """
    claims: dict[str, tuple[str, ...]] = {}
    named = {as_one_text(stem): names for stem, names in data.stems.items()}
    for stem in stems:
        wanted = [as_one_text(name).lower() for name in named.get(as_one_text(stem), (stem,))]
        claims[stem] = tuple(part for part in recording.parts if as_one_text(part) in wanted)
    claimed = [part for claim in claims.values() for part in claim]
    if twice := sorted({part for part in claimed if claimed.count(part) > 1}):
        raise ConfigError(f"data.stems gives the file '{twice[0]}' to two stems; give it to one.")
    rest = tuple(part for part in recording.parts if part not in claimed)
    for stem in stems:
        if not claims[stem] and stem in _REMAINDERS and stem not in named:
            claims[stem], rest = rest, ()
        if not claims[stem]:
            raise ConfigError(
                f"The track '{recording.name}' has no file for the stem '{stem}', only "
                f"{', '.join(recording.parts)}; name its files in data.stems."
            )
    return Assignment(tuple(claims[stem] for stem in stems), rest)


def note_missing(
    assigned: Mapping[Recording, Assignment], data: DataConfig, stems: Sequence[str], problems: Problems
) -> tuple[str, ...]:
    """Looks for tracks that lack a part of a stem which the others have: their sum is another target.

    Args:
        assigned: All recordings of a run, and what their parts are.
        data: Whether such tracks are refused.
        stems: Names of the model's stems.
        problems: Takes them if so.

    Returns:
        What is summed of them if not, a sentence each.
    """
    notes = []
    forgotten = max(1, len(assigned) * _FORGOTTEN_PERCENT // 100)
    for number, stem in enumerate(stems):
        for part in dict.fromkeys(part for each in assigned.values() for part in each.stems[number]):
            lacking = [recording for recording, each in assigned.items() if part not in each.stems[number]]
            if not lacking or len(lacking) > forgotten or len(lacking) == len(assigned):
                continue
            if data.incomplete == "sum":
                told = [f"{each.name} ({' + '.join(assigned[each].stems[number])})" for each in lacking]
                notes.append(f"'{stem}' is summed without '{part}', which the other tracks have, in {some_of(told)}.")
                continue
            for each in lacking:
                problems.add(
                    ConfigError(
                        f"The track '{each.name}' has no file '{part}', which is part of the stem '{stem}' in the "
                        f"other tracks: its target would be {' + '.join(assigned[each].stems[number])} alone; add "
                        "the file, take the track away, or set data.incomplete to 'sum'."
                    )
                )
    return tuple(notes)
