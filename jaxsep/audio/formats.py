"""What can be written how: formats, subtypes and bitrates, and the rules that refuse the rest before any work is done.

No files; writer.py writes them.
"""

import numpy as np
import soundfile

from jaxsep.errors import ConfigError, nearest

# What can be written, the default first.
SUBTYPES = {
    "wav": ("PCM_16", "PCM_24", "FLOAT"),
    "flac": ("PCM_16", "PCM_24"),
    "ogg": ("VORBIS",),
    "mp3": ("MPEG_LAYER_III",),
}

# What the coding of a mixture becomes in its stems. Stems are float32, whose 24 bits of precision PCM_24 holds: 32 bits
# would store noise. Integers of 8 bits and lossy codings become PCM_16, as everything does that is not named here.
_FROM_INPUT = {
    "wav": {
        "PCM_16": "PCM_16",
        "PCM_24": "PCM_24",
        "PCM_32": "PCM_24",
        "ALAC_16": "PCM_16",
        "ALAC_20": "PCM_24",
        "ALAC_24": "PCM_24",
        "ALAC_32": "PCM_24",
        "FLOAT": "FLOAT",
        "DOUBLE": "FLOAT",
    },
    "flac": {
        "PCM_16": "PCM_16",
        "PCM_24": "PCM_24",
        "PCM_32": "PCM_24",
        "ALAC_16": "PCM_16",
        "ALAC_20": "PCM_24",
        "ALAC_24": "PCM_24",
        "ALAC_32": "PCM_24",
        "FLOAT": "PCM_24",  # flac holds integers only
        "DOUBLE": "PCM_24",
    },
    "ogg": {},
    "mp3": {},
}

_DEFAULT_BITRATE_KBPS = 320

# ISO/IEC 11172-3 and 13818-3: sample rates and their bitrates in layer III. LAME and libsndfile stop at 64 kbit/s for
# MPEG 2.5.
_MPEG_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG_2_5 = (8, 16, 24, 32, 40, 48, 56, 64)
MP3_BITRATES_KBPS = {
    8000: _MPEG_2_5,
    11025: _MPEG_2_5,
    12000: _MPEG_2_5,
    16000: _MPEG_2,
    22050: _MPEG_2,
    24000: _MPEG_2,
    32000: _MPEG_1,
    44100: _MPEG_1,
    48000: _MPEG_1,
}

_MP3_HEADER_BYTES = 4
_LAME_TAG_BYTES = 156

# Vorbis is coded at constant quality. What libvorbis calls nominal for stereo at 44.1 kHz, quality 0 to 10.
_VORBIS_NOMINAL_KBPS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)

_MAX_CHANNELS = {"wav": 1024, "flac": 8, "ogg": 255, "mp3": 2}
# Beyond this rate flac counts in units of ten Hz.
_FLAC_EXACT_RATES_HZ = 65535
_RATE_RANGE_HZ = {"wav": (1, 2**31 - 1), "flac": (1, 655350), "ogg": (8000, 192000)}
# A RIFF header counts bytes with 32 bits; what is kept free is for chunks other than the samples.
MAX_WAV_DATA_BYTES = 2**32 - 4096
BYTES_PER_SAMPLE = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}


def mp3_bitrates(sample_rate: int, channels: int) -> tuple[int, ...]:
    """Returns the bitrates in kbit/s that an mp3 can have and still say how long it is, to the sample.

    The length stands in a first frame that holds no audio (LAME's tag). At low bitrates that frame is too small for it.

    Args:
        sample_rate: In Hz, a key of `MP3_BITRATES_KBPS`.
        channels: 1 or 2.
    """
    mpeg_1 = sample_rate >= 32000
    side_information = (17, 32)[channels - 1] if mpeg_1 else (9, 17)[channels - 1]
    bytes_per_kbps = (144000 if mpeg_1 else 72000) / sample_rate
    smallest = _MP3_HEADER_BYTES + side_information + _LAME_TAG_BYTES
    return tuple(b for b in MP3_BITRATES_KBPS[sample_rate] if int(b * bytes_per_kbps) >= smallest)


def choose_subtype(format: str, requested: str | None, input_subtype: str) -> str:
    """Returns how stems are coded: as requested, or as near to the mixture's coding as the format allows.

    Args:
        format: A key of `SUBTYPES`.
        requested: A subtype in libsndfile's words, in any case, or None.
        input_subtype: Of the mixture, as `AudioInfo.subtype` gives it.

    Raises:
        ConfigError: The format is not known, or does not hold the requested subtype.
    """
    if format not in SUBTYPES:
        raise ConfigError(f"There is no output format '{format}'.{nearest(format, SUBTYPES)}")
    if requested is None:
        return _FROM_INPUT[format].get(input_subtype, SUBTYPES[format][0])
    if requested.upper() not in SUBTYPES[format]:
        raise ConfigError(
            f"Format '{format}' cannot hold subtype '{requested}'; it holds {' or '.join(SUBTYPES[format])}."
        )
    return requested.upper()


def check_output(
    format: str,
    subtype: str,
    bitrate_kbps: int | None,
    sample_rate: int,
    channels: int,
    frames: int | None = None,
) -> None:
    """Refuses, before any work is done, what cannot be written.

    Args:
        format: A key of `SUBTYPES`.
        subtype: In libsndfile's words.
        bitrate_kbps: Of mp3 (exact and constant) and ogg (a nominal average), or None for the default.
        sample_rate: Sample rate in Hz.
        channels: Of the file.
        frames: How many will be written, if that is known.

    Raises:
        ConfigError: These do not go together.
    """
    choose_subtype(format, subtype, subtype)
    if format.upper() not in soundfile.available_formats():
        raise ConfigError(
            f"The libsndfile installed here ({soundfile.__libsndfile_version__}) cannot write {format}; "
            "install soundfile's own wheel, or write flac."
        )
    if channels < 1 or channels > _MAX_CHANNELS[format]:
        raise ConfigError(
            f"Format '{format}' holds 1 to {_MAX_CHANNELS[format]} channels, not {channels}; write wav or flac."
        )
    if format == "mp3":
        if sample_rate not in MP3_BITRATES_KBPS:
            rates = ", ".join(f"{rate / 1000:g}" for rate in MP3_BITRATES_KBPS)
            raise ConfigError(
                f"Mp3 has no sample rate of {sample_rate} Hz, only {rates} kHz; write flac, or another sample rate."
            )
        bitrates = mp3_bitrates(sample_rate, channels)
        if bitrate_kbps is not None and bitrate_kbps not in bitrates:
            raise ConfigError(
                f"Mp3 at {sample_rate} Hz cannot be written with {bitrate_kbps} kbit/s; "
                f"choose one of {', '.join(str(bitrate) for bitrate in bitrates)}."
            )
        return
    lowest, highest = _RATE_RANGE_HZ[format]
    if not lowest <= sample_rate <= highest:
        raise ConfigError(f"Format '{format}' holds sample rates of {lowest} to {highest} Hz, not {sample_rate}.")
    if format == "flac" and sample_rate > _FLAC_EXACT_RATES_HZ and sample_rate % 10:
        raise ConfigError(
            f"Flac holds sample rates beyond {_FLAC_EXACT_RATES_HZ} Hz in steps of 10 Hz only, not {sample_rate}; "
            "write wav, or another sample rate."
        )
    if format == "ogg":
        lowest, highest = _VORBIS_NOMINAL_KBPS[0], _VORBIS_NOMINAL_KBPS[-1]
        if bitrate_kbps is not None and not lowest <= bitrate_kbps <= highest:
            raise ConfigError(f"Ogg Vorbis has bitrates of {lowest} to {highest} kbit/s, not {bitrate_kbps}.")
        return
    if bitrate_kbps is not None:
        raise ConfigError(f"A bitrate ({bitrate_kbps} kbit/s) is for mp3 and ogg; {format} loses nothing and has none.")
    if format == "wav" and frames is not None:
        size = frames * channels * BYTES_PER_SAMPLE[subtype]
        if size > MAX_WAV_DATA_BYTES:
            raise ConfigError(f"A wav file cannot hold {size / 2**30:.1f} GiB, only 4 GiB; write flac.")


def compression(format: str, bitrate_kbps: int | None, sample_rate: int) -> tuple[float | None, str | None]:
    """Returns libsndfile's compression level and bitrate mode for a bitrate."""
    if format == "mp3":
        bitrates = MP3_BITRATES_KBPS[sample_rate]
        bitrate = min(_DEFAULT_BITRATE_KBPS, bitrates[-1]) if bitrate_kbps is None else bitrate_kbps
        # libsndfile sets LAME to the integer part of highest - level * (highest - lowest), which in double precision is
        # exactly each bitrate of the tables.
        return (bitrates[-1] - bitrate) / (bitrates[-1] - bitrates[0]), "CONSTANT"
    if format == "ogg":
        bitrate = _DEFAULT_BITRATE_KBPS if bitrate_kbps is None else bitrate_kbps
        quality = np.interp(bitrate, _VORBIS_NOMINAL_KBPS, np.arange(11) / 10)
        return float(1 - quality), None
    return None, None
