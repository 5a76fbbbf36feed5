"""Tags: what a file says of its song, by one set of names for all containers. The decoders read them."""

from collections.abc import Mapping

# libsndfile's names, which are those of Vorbis comments; FFmpeg says 'track'.
TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright")
_OTHER_NAMES = {"track": "tracknumber"}
# libsndfile holds 16 KiB of text for all tags of a file; what is longer than this is not meant to be read.
_LONGEST = 1000


def clean_tags(found: Mapping[str, str]) -> dict[str, str]:
    """Returns those of a file's tags that all formats hold, in the order of `TAGS`.

    Tags never stand in the way of the music: what is empty, too long, or no text is left out.

    Args:
        found: By the names of libsndfile or FFmpeg, in any case.
    """
    by_name = {_OTHER_NAMES.get(name.lower(), name.lower()): value for name, value in found.items()}
    cleaned = {}
    for name in TAGS:
        # Control characters and halves of surrogate pairs are in no text.
        value = "".join(each for each in by_name.get(name, "") if each.isprintable()).strip()
        if 0 < len(value) <= _LONGEST and "\ufffd" not in value:
            cleaned[name] = value
    return cleaned
