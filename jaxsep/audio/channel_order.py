"""The order of channels: everywhere in jaxsep that of wav and FFmpeg; libsndfile gives and takes Vorbis's for ogg."""

# Places of wav's channels among Vorbis's, by their number (Vorbis I specification, section 4.3.9). Of one, two and four
# channels the orders are equal, and of more than eight Vorbis leaves it to the program.
_VORBIS = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 5, 3, 4),
    7: (0, 2, 1, 6, 5, 3, 4),
    8: (0, 2, 1, 7, 5, 6, 3, 4),
}


def from_vorbis(channels: int) -> list[int] | None:
    """Returns where each channel of wav's order lies in Vorbis's, or None where the two are one.

    Args:
        channels: Number of channels.
    """
    return list(_VORBIS[channels]) if channels in _VORBIS else None


def to_vorbis(channels: int) -> list[int] | None:
    """Returns where each channel of Vorbis's order lies in wav's, or None where the two are one.

    Args:
        channels: Number of channels.
    """
    places = from_vorbis(channels)
    return None if places is None else [places.index(channel) for channel in range(channels)]
