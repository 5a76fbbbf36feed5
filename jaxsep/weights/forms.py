"""The published forms of all families: stems, sample rate and bandwidth of each, written once. Data alone, no jax.

The catalogue takes them from here, and so do the specs in each family's file of rules, which know the networks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """A published configuration, whether or not there are weights for it.

    Attributes:
        name: Name of the form; weights in it are called so where they have no other name.
        family: Name of the model family, a key of `jaxsep.models.FAMILIES`.
        stems: Names of the stems in the order of the network's output.
        sample_rate: Sample rate in Hz.
        bandwidth_hz: Frequency in Hz up to which stems are estimated.
    """

    name: str
    family: str
    stems: tuple[str, ...]
    sample_rate: int
    bandwidth_hz: float

    def bins(self, n_fft: int) -> int:
        """Returns how many bins of a transform, from 0 Hz up, lie in the bandwidth."""
        return round(self.bandwidth_hz * n_fft / self.sample_rate)


# 'instrument_list' in spleeter/resources/*.json of deezer/spleeter. Networks see 1024 bins of 44.1 kHz / 4096; '16kHz'
# is what Spleeter calls the forms that see 1536.
_SPLEETER = {
    "2stems": ("vocals", "accompaniment"),
    "4stems": ("vocals", "drums", "bass", "other"),
    "5stems": ("vocals", "piano", "drums", "bass", "other"),
}
_SPLEETER_BANDS = {"": 11025.0, "-16khz": 16537.5}

# 'source_names' of Config.py in f90/Wave-U-Net, whose order is that of the outputs, and 'expected_sr' there.
_WAVE_2STEMS, _WAVE_4STEMS = ("accompaniment", "vocals"), ("bass", "drums", "other", "vocals")
_WAVE = {
    "m1": (_WAVE_2STEMS, 22050),
    "m2": (_WAVE_2STEMS, 22050),
    "m3": (_WAVE_2STEMS, 22050),
    "m4": (_WAVE_2STEMS, 22050),
    "m5": (_WAVE_2STEMS, 22050),
    "m6": (_WAVE_4STEMS, 22050),
    "m7": (_WAVE_2STEMS, 8192),
    "m5-highsr": (_WAVE_2STEMS, 44100),
}

# 'sources' in demucs/pretrained.py and demucs/hf.py of facebookresearch/demucs; an ensemble's family is its members'.
_DEMUCS_STEMS = ("drums", "bass", "other", "vocals")
_DEMUCS = {
    "htdemucs": ("htdemucs", _DEMUCS_STEMS),
    "htdemucs_6s": ("htdemucs", (*_DEMUCS_STEMS, "guitar", "piano")),
    "hdemucs_mmi": ("hdemucs", _DEMUCS_STEMS),
    "demucs": ("demucs_v2", _DEMUCS_STEMS),
    "demucs48_hq": ("demucs_v2", _DEMUCS_STEMS),
    "demucs_extra": ("demucs_v2", _DEMUCS_STEMS),
}

# The formats of other programs' weights: the keys of `jaxsep.weights.rules.RULES`.
FORMATS = ("spleeter", "jansson", "classic_unet", "wave_unet", "wave_unet_resampled", "demucs", "demucs_v2")

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        *(
            Form(f"spleeter-{number}{band}", "unet", stems, 44100, bandwidth_hz)
            for band, bandwidth_hz in _SPLEETER_BANDS.items()
            for number, stems in _SPLEETER.items()
        ),
        # Audio of Jansson et al. 2017; of 513 bins, the one at half the sample rate is left out.
        Form("jansson", "jansson", ("vocals", "accompaniment"), 8192, 4096.0),
        Form("jansson-log", "jansson", ("vocals", "accompaniment"), 8192, 4096.0),
        Form("classic-unet", "classic_unet", ("vocals", "accompaniment"), 44100, 22050.0),
        *(Form(f"wave-unet-{name}", "wave_unet", stems, rate, rate / 2) for name, (stems, rate) in _WAVE.items()),
        Form("wave-unet-torch", "wave_unet_resampled", _WAVE_4STEMS, 44100, 22050.0),
        *(Form(name, family, stems, 44100, 22050.0) for name, (family, stems) in _DEMUCS.items()),
    )
}

# Published ensembles of Demucs's; the family is that of the members, or both.
BAGS: dict[str, Form] = {
    name: Form(name, family, _DEMUCS_STEMS, 44100, 22050.0)
    for name, family in (
        ("htdemucs_ft", "htdemucs"),
        ("mdx", "demucs_v3 and hdemucs"),
        ("mdx_extra", "hdemucs"),
        ("repro_mdx_a", "demucs_v3 and hdemucs"),
    )
}
