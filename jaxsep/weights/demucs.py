"""Demucs 3 and 4: which model a package or a bag of packages becomes, and the published forms. No unpickling.

The class in a package decides the family, and the arguments of its constructor decide the config. Packages are read in
`demucs_packages.py`; how state dicts name variables is in `demucs_names.py`.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from jaxsep.dsp.cuts import Chunking, Last
from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models.demucs_config import DemucsConfig
from jaxsep.models.demucs_v2 import DemucsV2Config
from jaxsep.models.demucs_v3 import DemucsV3Config
from jaxsep.models.domain import Waveform
from jaxsep.models.family import FamilyConfig
from jaxsep.models.hdemucs import HDemucsConfig
from jaxsep.models.htdemucs import HTDemucsConfig
from jaxsep.models.procedure import DEMUCS, Normalise, Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.demucs_names import demucs_rules
from jaxsep.weights.demucs_packages import Bag, Package, members_of, read_bag, read_package
from jaxsep.weights.family_rules import FamilyRules, ForeignModel, ForeignWeights
from jaxsep.weights.forms import FORMS
from jaxsep.weights.tree import expected_shapes

logger = logging.getLogger(__name__)

# Share of a segment that neighbours have in common, in all of Demucs's programs.
_OVERLAP = 0.25

_SHAPE = ("growth", "depth", "rewrite", "kernel_size", "stride", "context")
_BRANCHES = ("norm_starts", "norm_groups", "dconv_mode", "dconv_depth", "dconv_comp", "dconv_init")
_HYBRID = (
    *_SHAPE,
    *_BRANCHES,
    "channels_time",
    "cac",
    "multi_freqs",
    "multi_freqs_depth",
    "freq_emb",
    "emb_scale",
    "time_stride",
    "context_enc",
)
_TRANSFORMER = (
    *("layers", "heads", "hidden_scale", "dropout", "max_period", "weight_pos_embed"),
    *("norm_in", "norm_out", "layer_scale", "gelu", "cross_first"),
)
# How many times the first values of weights were rescaled, and how embeddings began, says nothing of a trained network.
_INITIAL = {"rescale": 0.1}


class _Class(NamedTuple):
    """A class of Demucs's.

    Attributes:
        family: Name of the family that its networks are of.
        config: Class of that family's configs.
        named_alike: Arguments that the config has under the same names.
        defaults: Defaults of the constructor, where they are not those of the config.
        required: Arguments for which only one value is done here, with that value.
        ignored: Arguments that the estimates of a trained network do not depend on, given the required ones.
        segment: Default of 'segment', in seconds.
        normalise: What of the whole track is normalised.
        last: What the last chunk sees.
    """

    family: str
    config: type[DemucsConfig]
    named_alike: tuple[str, ...]
    defaults: Mapping[str, Any]
    required: Mapping[str, Any]
    ignored: tuple[str, ...]
    segment: float
    normalise: Normalise = DEMUCS
    last: Last = "own_length"


_HT = _Class(
    "htdemucs",
    HTDemucsConfig,
    (*_HYBRID, "bottom_channels"),
    {"multi_freqs_depth": 3, "dconv_init": 1e-3},
    {
        "wiener_iters": 0,
        "end_iters": 0,
        "wiener_residual": False,
        "t_emb": "sin",
        "t_norm_in_group": False,
        "t_group_norm": False,
        "t_norm_first": True,
        "t_sin_random_shift": 0,
        "t_sparse_self_attn": False,
        "t_sparse_cross_attn": False,
    },
    (
        "emb_smooth",
        "rescale",
        *(f"t_{name}" for name in ("max_positions", "weight_decay", "lr", "mask_type", "mask_random_seed", "sparsity")),
        *(f"t_cape_{name}" for name in ("mean_normalize", "augment", "glob_loc_scale")),
        *("t_sparse_attn_window", "t_global_window", "t_auto_sparsity"),
    ),
    segment=10,
    last="centred",
)
_HYBRID_V3 = _Class(
    "hdemucs",
    HDemucsConfig,
    (*_HYBRID, "hybrid_old", "dconv_attn", "dconv_lstm"),
    {},
    {"wiener_iters": 0, "end_iters": 0, "wiener_residual": False, "hybrid": True},
    ("emb_smooth", "rescale"),
    segment=40,
)
_TIME_V3 = _Class(
    "demucs_v3",
    DemucsV3Config,
    (*_SHAPE, *_BRANCHES, "lstm_layers", "dconv_attn", "dconv_lstm", "normalize", "resample"),
    {},
    {"gelu": True, "glu": True},
    ("rescale",),
    segment=40,
)
_TIME_V2 = _Class(
    "demucs_v2",
    DemucsV2Config,
    (*_SHAPE, "lstm_layers", "normalize", "resample"),
    {},
    {"glu": True},
    ("rescale",),
    segment=40,
    # It divides by the deviation alone, and what it gives of silence is no number: so little is lost in float32.
    normalise=Normalise(eps=1e-12),
)
# By their dotted names; 'wdemucs' is what hybrid Demucs was called before its release.
_CLASSES = {
    "demucs.htdemucs.HTDemucs": _HT,
    "demucs.hdemucs.HDemucs": _HYBRID_V3,
    "demucs.wdemucs.WDemucs": _HYBRID_V3,
    "demucs.demucs.Demucs": _TIME_V3,
    "demucs.model.Demucs": _TIME_V2,
}


def open_demucs(source: Path, name: str | None) -> ForeignWeights:
    """Reads a package of Demucs, or a bag with its members.

    Args:
        source: A `.th` or `.safetensors` package, or the `.yaml` of a bag beside its members.
        name: Name that the model is given; None for the file's.

    Raises:
        CheckpointError: It is no such file, damaged, or holds what jaxsep does not do.
    """
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder; give one of the .yaml, .th or .safetensors files in it.")
    if source.suffix not in (".yaml", ".yml"):
        return ForeignWeights((_model(read_package(source), name, None),), None, (source,))
    bag = read_bag(source)
    files = members_of(source, bag)
    found: dict[Path, ForeignModel] = {}
    for file in files:
        if file not in found:
            found[file] = _model(read_package(file), name if len(files) == 1 else None, bag.segment)
    members = tuple(found[file] for file in files)
    weights = _weights(source, bag, members)
    name = name or source.stem
    if len(members) == 1:
        only = members[0]._replace(spec=members[0].spec.model_copy(update={"name": name}))
        return ForeignWeights((only,), None, (source, *files))
    return ForeignWeights(members, weights, (source, *files), name)


def refuse_bare_arrays(arrays: Mapping[str, Any], *, name: str | None, where: str) -> Any:
    """Refuses arrays without a class and its arguments; arguments are those of all rules."""
    raise CheckpointError(f"{where} says nothing of the network that its arrays belong to; give a package of Demucs.")


def demucs_spec(
    klass: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, name: str, segment: float | int | None, where: str
) -> ModelSpec:
    """Returns the spec of a network of Demucs's, licence and provenance not stated.

    Args:
        klass: Dotted name of its class.
        args: Positional arguments of its constructor: the sources, or nothing.
        kwargs: Other arguments.
        name: Name of the model.
        segment: Seconds that it hears at a time, in place of what the arguments say; None for that. A transformer is
            given no more than it was trained on.
        where: Where the network comes from, for messages.

    Raises:
        CheckpointError: The class is none of Demucs's, or an argument asks for what jaxsep does not do.
    """
    known = _CLASSES.get(klass)
    if known is None:
        raise CheckpointError(
            f"{where} holds a {klass}, which is no network that jaxsep knows from Demucs: {', '.join(_CLASSES)}."
        )
    arguments = dict(kwargs)
    if len(args) > 1 or (args and "sources" in arguments):
        raise CheckpointError(f"{where} is built with {len(args)} arguments without names; only its sources can be.")
    if args:
        arguments["sources"] = args[0]
    with built(where):
        return _spec(known, arguments, name=name, segment=segment, where=where)


def _spec(known: _Class, arguments: dict[str, Any], *, name: str, segment: float | int | None, where: str) -> ModelSpec:
    stems = arguments.pop("sources", None)
    if not isinstance(stems, list | tuple) or not all(isinstance(stem, str) for stem in stems):
        raise CheckpointError(f"{where} does not name its sources; get it anew.")
    for key, value in known.required.items():
        if not isinstance(arguments.get(key, value), bool | int | float | str | None):
            raise CheckpointError(f"{where} is built with a {type(arguments[key]).__name__} as {key}; get it anew.")
        if (given := arguments.pop(key, value)) != value:
            raise CheckpointError(f"{where} is built with {key}={given!r:.60}, and jaxsep does {value!r} alone.")
    values: dict[str, Any] = {"n_sources": len(stems), **known.defaults, **_INITIAL}
    values |= {ours: arguments.pop(theirs) for ours, theirs in _renamed(known).items() if theirs in arguments}
    values |= {key: arguments.pop(key) for key in known.named_alike if key in arguments}
    if values.get("multi_freqs") is None:
        values.pop("multi_freqs", None)
    if texts := [key for key, value in values.items() if isinstance(value, str)]:
        raise CheckpointError(f"{where} is built with text as {', '.join(texts)}, where numbers belong; get it anew.")
    sample_rate = arguments.pop("samplerate", 44100)
    if not isinstance(sample_rate, int) or not 0 < sample_rate < 10**7:
        raise CheckpointError(f"{where} is built for a sample rate that there is not; get it anew.")
    own = arguments.pop("segment_length") / sample_rate if "segment_length" in arguments else known.segment
    own = arguments.pop("segment", own)
    for seconds in (own, segment):
        is_length = isinstance(seconds, int | float | Fraction) and 1 / sample_rate <= seconds < 1e4
        if seconds is not None and not is_length:
            raise CheckpointError(f"{where} has segments of {seconds!s:.40} s, which cannot be; get it anew.")
    has_transformer = known.config is HTDemucsConfig
    if segment is not None and (not has_transformer or segment <= own):
        own = segment
    length, last = int(own * sample_rate), known.last
    if has_transformer:
        values["transformer"] = _transformer(arguments)
        is_padded = arguments.pop("use_train_segment", True)
        values["train_segment"] = length if is_padded else None
        last = "centred" if is_padded else "own_length"
    if unknown := sorted(arguments.keys() - known.ignored):
        # As Demucs does with what an older version wrote.
        logger.warning("%s has arguments that its class does not take; left out: %s", where, ", ".join(unknown))
    config = known.config.parse(values, where=where)
    procedure = Procedure(cutting=demucs_cutting(config, length, last), normalise=known.normalise)
    return ModelSpec.parse(
        {
            "name": name,
            "family": known.family,
            "config": config,
            "domain": Waveform(),
            "procedure": procedure,
            "stems": tuple(stems),
            "sample_rate": sample_rate,
            "channels": config.channels,
            "licence": "not stated",
            "provenance": "not stated",
        },
        where=where,
    )


def constructor_of(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Returns the class of Demucs's that a model's network is of, and the arguments that build it there.

    Args:
        spec: Spec of a model of one of Demucs's families.

    Raises:
        ConfigError: It is of another family.
    """
    values = demucs_config(spec).model_dump()
    klass, known = next((klass, known) for klass, known in _CLASSES.items() if known.family == spec.family)
    cutting = spec.procedure.cutting
    assert isinstance(cutting, Chunking)
    arguments = {theirs: values[ours] for ours, theirs in _renamed(known).items()}
    arguments |= {key: values[key] for key in known.named_alike}
    if "multi_freqs" in arguments:
        arguments["multi_freqs"] = list(arguments["multi_freqs"])
    length = values.get("train_segment") or cutting.estimate_length
    # HTDemucs makes a number of channels of it, which must be whole.
    arguments["growth"] = int(growth) if (growth := arguments["growth"]).is_integer() else growth
    arguments |= {"sources": list(spec.stems), "samplerate": spec.sample_rate}
    if known is _TIME_V2:
        return klass, {**arguments, "segment_length": length}
    if known is _HT:
        transformer = values["transformer"] or {"layers": 0}
        arguments |= {f"t_{name}": value for name, value in transformer.items()}
        arguments["use_train_segment"] = values["train_segment"] is not None
    return klass, {**arguments, "segment": Fraction(length, spec.sample_rate)}


def demucs_cutting(config: FamilyConfig, length: int, last: Last) -> Chunking:
    """Returns how Demucs cuts a track (demucs/apply.py): segments that share a quarter, weighted by triangles.

    Args:
        config: Config of the network.
        length: Samples that are estimated at a time.
        last: What the last segment sees.
    """
    return Chunking(
        chunk_length=config.input_length(length),
        estimate_length=length,
        chunk_hop=max(int((1 - _OVERLAP) * length), 1),
        window="triangular",
        last=last,
    )


def _renamed(known: _Class) -> dict[str, str]:
    """Returns arguments that the config calls otherwise, by its names."""
    names = {"features": "channels", "channels": "audio_channels"}
    return names | ({"n_fft": "nfft"} if "cac" in known.named_alike else {})


def _transformer(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Takes the transformer's arguments out; None where it has no layers."""
    values = {name: arguments.pop(f"t_{name}") for name in _TRANSFORMER if f"t_{name}" in arguments}
    return None if values.get("layers") == 0 else values


def _model(package: Package, name: str | None, segment: float | int | None) -> ForeignModel:
    spec = demucs_spec(
        package.klass,
        package.args,
        package.kwargs,
        name=name or package.signature,
        segment=segment,
        where=str(package.path),
    )
    with built(str(package.path)):
        rules = demucs_rules(demucs_config(spec), expected_shapes(spec))
    return ForeignModel(spec, rules, package.state, str(package.path))


def demucs_config(spec: ModelSpec) -> DemucsConfig:
    """Returns the config of a model of one of Demucs's families.

    Raises:
        ConfigError: It is of another family.
    """
    if not isinstance(spec.config, DemucsConfig):
        raise ConfigError(f"'{spec.name}' is of the family '{spec.family}', which Demucs does not have.")
    return spec.config


@contextmanager
def built(where: str) -> Iterator[None]:
    """Turns what wrong arguments of a file bring about in a network into a sentence: they are of any kind and size."""
    try:
        yield
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    except (TypeError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200].removesuffix(".") or type(error).__name__
        raise CheckpointError(f"{where} is built with arguments that make no network: {reason}.") from None


def _weights(source: Path, bag: Bag, members: tuple[ForeignModel, ...]) -> tuple[tuple[float, ...], ...]:
    """Returns the weight of each member for each source."""
    weights = bag.weights or ((1.0,) * len(members[0].spec.stems),) * len(members)
    if len(weights) != len(members) or any(len(row) != len(members[0].spec.stems) for row in weights):
        raise CheckpointError(
            f"{source} has {len(members)} members, and its weights are not a row for each, with a number for each "
            "source."
        )
    if not all(sum(column) > 0 for column in zip(*weights, strict=True)):
        raise CheckpointError(f"{source} has a source for which no member has a weight.")
    return weights


# Constructor arguments of the published networks that share one (grids/mmi.py and grids/repro.py of
# facebookresearch/demucs); `demucs` and `demucs48_hq` are built in demucs/pretrained.py of its branch v2.
_HTDEMUCS = {
    "dconv_mode": 3,
    "t_dropout": 0.02,
    "bottom_channels": 512,
    "segment": Fraction(39, 5),
}
_PUBLISHED: dict[str, tuple[str, Mapping[str, Any], float | None]] = {
    "htdemucs": ("demucs.htdemucs.HTDemucs", _HTDEMUCS, None),
    "htdemucs_6s": ("demucs.htdemucs.HTDemucs", {**_HTDEMUCS, "bottom_channels": 0}, None),
    "hdemucs_mmi": ("demucs.hdemucs.HDemucs", {"dconv_init": 1e-3}, 44),
    "demucs": ("demucs.model.Demucs", {}, None),
    "demucs48_hq": ("demucs.model.Demucs", {"channels": 48}, None),
    "demucs_extra": ("demucs.model.Demucs", {}, None),
}


def _form(name: str) -> ModelSpec:
    klass, kwargs, segment = _PUBLISHED[name]
    return demucs_spec(klass, (FORMS[name].stems,), kwargs, name=name, segment=segment, where=f"the form '{name}'")


SPECS = {name: _form(name) for name in _PUBLISHED if FORMS[name].family != "demucs_v2"}
SPECS_V2 = {name: _form(name) for name in _PUBLISHED if FORMS[name].family == "demucs_v2"}

RULES = FamilyRules(("htdemucs", "hdemucs", "demucs_v3"), refuse_bare_arrays, SPECS, open=open_demucs)
