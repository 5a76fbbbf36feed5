"""The catalogue of published models: what each is, where its authors published it, under which licence. Data alone.

`pull.py` fetches what is named here, and `pretrained.py` finds it on this machine.
"""

from dataclasses import dataclass

from jaxsep.weights.forms import BAGS, FORMS, Form


@dataclass(frozen=True)
class Score:
    """A number that the authors of a model published for it.

    Attributes:
        stem: Of which stem.
        sdr_db: Signal-to-distortion ratio: median over tracks of the medians over one-second frames (BSS Eval v4).
        method: How stems were made from the network's output.
        dataset: On which tracks.
        source: Where it was published.
    """

    stem: str
    sdr_db: float
    method: str
    dataset: str
    source: str


@dataclass(frozen=True)
class Archive:
    """A .tar.gz of weights in its authors' own format.

    Attributes:
        url: Where they published it.
        sha256: Of the file.
        size_bytes: About how large the file is; twice as much is refused.
        description: What it holds and who made it.
        format: Name of the rules that convert what it holds, a key of `jaxsep.weights.rules.RULES`.
    """

    url: str
    sha256: str
    size_bytes: int
    description: str
    format: str


@dataclass(frozen=True)
class ByHand:
    """Weights whose host gives them to people in a browser, and of which nobody published a sha256.

    Attributes:
        url: Of the page.
        member: The file or folder, of those that the download unpacks to, which holds the model.
        description: What it is and who made it.
        format: See `Archive`.
    """

    url: str
    member: str
    description: str
    format: str


@dataclass(frozen=True)
class Files:
    """Files of weights in their authors' own format, side by side; several are the members of an ensemble.

    Attributes:
        url: Folder in which they were published.
        names: Names of the files. Each ends, before its suffix, in the first eight digits of the file's sha256.
        size_bytes: About how large they are together; twice as much is refused.
        description: What they are and who made them.
        format: See `Archive`.
        weights: Weight of each member for each source; None for 1.
        segment_seconds: Seconds that members hear at a time; None for what their files say.
    """

    url: str
    names: tuple[str, ...]
    size_bytes: int
    description: str
    format: str
    weights: tuple[tuple[float, ...], ...] | None = None
    segment_seconds: float | None = None


@dataclass(frozen=True)
class CatalogueEntry:
    """A published model.

    Attributes:
        name: What `Separator.from_pretrained` and the command line call it.
        form: Form that its authors published, which says what family, stems, sample rate and bandwidth are.
        size_bytes: Of its arrays, as its file holds them.
        dtype: What its file holds numbers in.
        licence: Of the weights.
        archive: What its authors published, from which the file is made.
        sha256: Of the arrays, as `load_checkpoint` verifies and reports it; None where only that of the archive is
            known.
        scores: What its authors published for this very model.
        bundled: Whether its file comes with jaxsep.
        spec_sha256: Of the spec in a bundled file, which is known to fit the arrays.
    """

    name: str
    form: Form
    size_bytes: int
    dtype: str
    licence: str
    archive: Archive | ByHand | Files
    sha256: str | None = None
    scores: tuple[Score, ...] = ()
    bundled: bool = False
    spec_sha256: str | None = None

    @property
    def family(self) -> str:
        """Name of the model family."""
        return self.form.family

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems in the order of the model's output."""
        return self.form.stems

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return self.form.sample_rate

    @property
    def bandwidth_hz(self) -> float:
        """Frequency in Hz up to which stems are estimated."""
        return self.form.bandwidth_hz


def _spleeter_archive(form: str, sha256: str, size_bytes: int) -> Archive:
    return Archive(
        url=f"https://github.com/deezer/spleeter/releases/download/v1.4.0/{form}.tar.gz",
        sha256=sha256,
        size_bytes=size_bytes,
        description=f"spleeter:{form}, published by Deezer with Spleeter (https://github.com/deezer/spleeter)",
        format="spleeter",
    )


# The hashes are those that tests/test_github_model_provider.py of deezer/spleeter expects in the release's
# checksum.json. Spleeter's '16kHz' forms name the same archives: their networks see 1536 bins instead of 1024 through
# the same weights.
_2STEMS = _spleeter_archive("2stems", "f3a90b39dd2874269e8b05a48a86745df897b848c61f3958efc80a39152bd692", 73_000_000)
_4STEMS = _spleeter_archive("4stems", "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8", 147_000_000)
_5STEMS = _spleeter_archive("5stems", "25a1e87eb5f75cc72a4d2d5467a0a50ac75f05611f877c278793742513cc7218", 182_000_000)

_FLOAT16_SHA256 = "a1d5ac54f6e4c35c5599964f3f1e7c6fd4424e89c3ed091b3ab651cc48020cec"
_FLOAT32_SHA256 = "3a97fb1f6bf6156d225c6c9e0d87620157763c20edb4888afe488f6699d594c6"

# Hennequin et al. 2020 score vocals, drums, bass and other together: the numbers are those of the 4-stem model in its
# plain form, vocals included, and of no other.
_4STEM_SCORES = tuple(
    Score(stem, sdr_db, method, "MUSDB18 test", "Hennequin et al. 2020, https://doi.org/10.21105/joss.02154")
    for method, ratios in (("ratio masks", (6.55, 5.93, 5.10, 4.24)), ("Wiener filter", (6.86, 6.71, 5.51, 4.55)))
    for stem, sdr_db in zip(FORMS["spleeter-4stems"].stems, ratios, strict=True)
)


def _spleeter(
    name: str,
    dtype: str,
    archive: Archive,
    *,
    sha256: str | None = None,
    scores: tuple[Score, ...] = (),
    spec_sha256: str | None = None,
) -> CatalogueEntry:
    # Parameters and statistics of one network; the published ones differ in how many they have.
    network = 9_824_711
    form = FORMS[name.removesuffix("-fp32")]
    return CatalogueEntry(
        name=name,
        form=form,
        size_bytes=len(form.stems) * network * {"float16": 2, "float32": 4}[dtype],
        dtype=dtype,
        licence="MIT",
        archive=archive,
        sha256=sha256,
        scores=scores,
        bundled=spec_sha256 is not None,
        spec_sha256=spec_sha256,
    )


# README.md of f90/Wave-U-Net: its best vocal separator, scored on MUSDB18.
_M5_HIGHSR_SCORES = tuple(
    Score(stem, sdr_db, "network", "MUSDB18 test", "https://github.com/f90/Wave-U-Net")
    for stem, sdr_db in (("accompaniment", 11.16), ("vocals", 4.95))
)


def _wave_unet(
    name: str,
    numbers: int,
    member: str,
    *,
    repository: str = "f90/Wave-U-Net",
    url: str = "https://www.dropbox.com/s/oq0woy3cmf5s8y7/models.zip",
    format: str = "wave_unet",
    scores: tuple[Score, ...] = (),
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        form=FORMS[name],
        size_bytes=4 * numbers,
        dtype="float32",
        licence="MIT",
        archive=ByHand(
            url=url,
            member=member,
            description=f"{member}, published by Daniel Stoller with https://github.com/{repository}",
            format=format,
        ),
        scores=scores,
    )


def _demucs_scores(source: str, **sdr_db: float) -> tuple[Score, ...]:
    # Version 2 was scored with its default of ten shifts, before there was MUSDB18-HQ.
    is_v2 = source == _V2_PAPER
    method, dataset = ("mean over 10 time shifts", "MUSDB18 test") if is_v2 else ("network", "MUSDB18-HQ test")
    return tuple(Score(stem, value, method, dataset, source) for stem, value in sdr_db.items())


_HYBRID_PAPER = "Défossez 2021, https://arxiv.org/abs/2111.03600"
_TRANSFORMER_PAPER = "Rouard et al. 2022, https://arxiv.org/abs/2211.08553"
_V2_PAPER = "Défossez et al. 2019, https://arxiv.org/abs/1911.13254"
# demucs/remote/*.yaml of facebookresearch/demucs: models in rows; drums, bass, other, vocals in columns.
_MDX_WEIGHTS = ((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))
_ONE_EACH = tuple(tuple(float(row == column) for column in range(4)) for row in range(4))


def _demucs(
    name: str,
    numbers: int,
    folder: str,
    *files: str,
    dtype: str = "float16",
    format: str = "demucs",
    weights: tuple[tuple[float, ...], ...] | None = None,
    segment_seconds: float | None = None,
    scores: tuple[Score, ...] = (),
) -> CatalogueEntry:
    size_bytes = {"float16": 2, "float32": 4}[dtype] * numbers
    form = FORMS.get(name) or BAGS[name]
    return CatalogueEntry(
        name=name,
        form=form,
        size_bytes=size_bytes,
        dtype=dtype,
        licence="MIT",
        archive=Files(
            url=f"https://dl.fbaipublicfiles.com/demucs/{folder}/",
            names=tuple(f"{file}.th" for file in files),
            size_bytes=size_bytes,
            description=f"{name}, published by Meta with Demucs (https://github.com/facebookresearch/demucs)",
            format=format,
            weights=weights,
            segment_seconds=segment_seconds,
        ),
        scores=scores,
    )


CATALOGUE = (
    _spleeter(
        "spleeter-2stems",
        "float16",
        _2STEMS,
        sha256=_FLOAT16_SHA256,
        spec_sha256="e1d1215d2ac2e2b847a32b429c9714f3da0e9d82cf591cef945b3ccd30db580a",
    ),
    _spleeter("spleeter-2stems-16khz", "float16", _2STEMS, sha256=_FLOAT16_SHA256),
    _spleeter("spleeter-2stems-fp32", "float32", _2STEMS, sha256=_FLOAT32_SHA256),
    _spleeter("spleeter-4stems", "float32", _4STEMS, scores=_4STEM_SCORES),
    _spleeter("spleeter-4stems-16khz", "float32", _4STEMS),
    _spleeter("spleeter-5stems", "float32", _5STEMS),
    _spleeter("spleeter-5stems-16khz", "float32", _5STEMS),
    _wave_unet("wave-unet-m4", 10_263_390, "baseline_stereo"),
    _wave_unet("wave-unet-m5-highsr", 10_265_550, "full_44KHz", scores=_M5_HIGHSR_SCORES),
    _wave_unet("wave-unet-m6", 10_263_498, "full_multi_instrument"),
    _wave_unet(
        "wave-unet-torch",
        69_910_752,
        "waveunet/model",
        repository="f90/Wave-U-Net-Pytorch",
        url="https://www.dropbox.com/s/r374hce896g4xlj/models.7z",
        format="wave_unet_resampled",
    ),
    # Files and their hashes: demucs/remote/files.txt and, of version 2, demucs/pretrained.py.
    _demucs(
        "htdemucs",
        41_984_456,
        "hybrid_transformer",
        "955717e8-8726e21a",
        scores=_demucs_scores(_TRANSFORMER_PAPER, drums=10.05, bass=9.78, other=6.42, vocals=8.93),
    ),
    _demucs(
        "htdemucs_ft",
        4 * 41_984_456,
        "hybrid_transformer",
        "f7e0c4bc-ba3fe64a",
        "d12395a8-e57c48e6",
        "92cfc3b6-ef3bcb9c",
        "04573f0d-f3cf25b2",
        weights=_ONE_EACH,
        scores=_demucs_scores(_TRANSFORMER_PAPER, drums=10.08, bass=10.39, other=6.32, vocals=9.20),
    ),
    _demucs("htdemucs_6s", 27_414_996, "hybrid_transformer", "5c90dfd2-34c22ccb"),
    _demucs(
        "hdemucs_mmi",
        83_637_832,
        "hybrid_transformer",
        "75fc33f5-1941ce65",
        segment_seconds=44.0,
        scores=_demucs_scores(_TRANSFORMER_PAPER, drums=9.31, bass=9.13, other=6.18, vocals=8.75),
    ),
    _demucs(
        "mdx",
        2 * 88_984_040 + 83_607_872 + 83_884_248,
        "mdx_final",
        "0d19c1c6-0f06f20e",
        "7ecf8ec1-70f50cc9",
        "c511e2ab-fe698775",
        "7d865c68-3d5dd56b",
        weights=_MDX_WEIGHTS,
        segment_seconds=44.0,
        scores=_demucs_scores(_HYBRID_PAPER, drums=8.24, bass=8.76, other=5.59, vocals=8.13),
    ),
    _demucs(
        "mdx_extra",
        2 * 83_637_832 + 2 * 83_633_984,
        "mdx_final",
        "e51eebcc-c1b80bdd",
        "a1d90b5c-ae9d2452",
        "5d2d6c55-db83574e",
        "cfa93e08-61801ae1",
        segment_seconds=44.0,
    ),
    _demucs(
        "repro_mdx_a",
        2 * 133_753_064 + 2 * 83_637_832,
        "mdx_final",
        "9a6b4851-03af0aa6",
        "1ef250f1-592467ce",
        "fa0cb7f9-100d8bf4",
        "902315c2-b39ce9c9",
        segment_seconds=44.0,
        scores=_demucs_scores(_HYBRID_PAPER, drums=8.12, bass=8.43, other=5.65, vocals=8.35),
    ),
    _demucs(
        "demucs",
        265_679_496,
        "v3.0",
        "demucs-e07c671f",
        dtype="float32",
        format="demucs_v2",
        scores=_demucs_scores(_V2_PAPER, drums=6.86, bass=7.01, other=4.42, vocals=6.84),
    ),
    _demucs("demucs48_hq", 149_462_504, "v3.0", "demucs48_hq-28a1282c", dtype="float32", format="demucs_v2"),
    _demucs(
        "demucs_extra",
        265_679_496,
        "v3.0",
        "demucs_extra-3646af93",
        dtype="float32",
        format="demucs_v2",
        scores=_demucs_scores(_V2_PAPER, drums=7.58, bass=7.60, other=4.69, vocals=7.29),
    ),
)


def list_models() -> tuple[CatalogueEntry, ...]:
    """Returns the models of the catalogue."""
    return CATALOGUE


def find_entry(name: str) -> CatalogueEntry | None:
    """Returns the model of that name; None where the catalogue has none."""
    return next((entry for entry in list_models() if entry.name == name), None)
