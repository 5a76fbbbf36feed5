"""The config of a run: what a recipe in configs/ holds, key by key, and how it is read. No arrays, no devices.

configs/README.md lists every key with its unit and default; a test compares it with the classes here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from jaxsep.config import Config, findings, misfit
from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models.ensemble import AnySpec
from jaxsep.models.format_versions import changes_from_version_1, is_version_1
from jaxsep.models.spec import ModelSpec
from jaxsep.recipe import read_recipe
from jaxsep.training.objective import LossConfig
from jaxsep.training.optimizer import OptimizerConfig
from jaxsep.version import __version__

Layout = Literal["auto", "folders", "musdb18", "musdb18hq", "prepared", "synthetic"]
# Steps and examples are counted in 32 bits on the device.
MOST_EXAMPLES = 2**31 - 1
# What may differ between a run and its continuation: how long it runs, where its data lie, and what is told of it.
CHANGEABLE = (
    "training.steps",
    "data.root",
    "data.threads",
    "data.prefetch",
    "checkpoints",
    "validation",
    "logging",
    "model.provenance",
)


class InitConfig(Config):
    """What a run starts from instead of random numbers.

    Attributes:
        checkpoint: A model's name ('spleeter-2stems'), or the path of a checkpoint or run. Keys of `model` that the
            recipe does not give are taken from it.
        member: Number of the member to start from, from 0, where the checkpoint is an ensemble.
        fresh: Patterns of variables ('params/source_0/mask/*') that start from random numbers all the same; all others
            must be in the checkpoint, in the same shape.
    """

    checkpoint: str
    member: int | None = pydantic.Field(default=None, ge=0)
    fresh: tuple[str, ...] = ()


class DataConfig(Config):
    """Which tracks, and what is cut out of them.

    Attributes:
        root: The folder. Not needed by the layout 'synthetic'.
        layout: What is in it: 'folders' (a folder for each track, a file for each source), 'musdb18' (.stem.mp4) or
            'musdb18hq' (wav), by musdb's parser; 'prepared', from `python -m train.prepare`; 'synthetic', tones and
            noise that are computed; 'auto' for what is found.
        stems: Files that make up each stem of the model, by name without ending; a stem that is not named here is the
            file of its own name. 'accompaniment' and 'other', where there is no such file, are all that is not claimed.
        incomplete: What is done with a track that lacks a file of which a stem is summed in (almost) all others:
            'refuse', or 'sum' those that it has, and say so.
        mixture: 'sum' for the sum of all files, 'file' for the one called 'mixture' or 'mix', as it is.
        validation_tracks: Tracks that are kept out of training, by name. Empty: those of the folder 'valid' or
            'validation' beside 'train', and musdb's own list for the layouts of that name. The folder 'test' is never
            read.
        segment_length: Samples of a training example; none for a chunk of the model.
        short: What is done with tracks that are shorter than an example: 'refuse', 'pad' them with silence at their
            end, or 'leave_out'.
        silent: What is done with examples of which a stem is silent throughout: 'keep', or 'redraw' another place up to
            ten times.
        silent_below_db: What counts as silent: root mean square relative to full scale.
        corrupt: What is done about examples that cannot be read: 'stop', or 'substitute' another one, the same in every
            run.
        threads: That read and decode.
        prefetch: Batches that are read ahead.
    """

    root: str | None = None
    layout: Layout = "auto"
    stems: dict[str, tuple[str, ...]] = pydantic.Field(default={})
    incomplete: Literal["refuse", "sum"] = "refuse"
    mixture: Literal["sum", "file"] = "sum"
    validation_tracks: tuple[str, ...] = ()
    segment_length: int | None = pydantic.Field(default=None, gt=0)
    short: Literal["refuse", "pad", "leave_out"] = "refuse"
    silent: Literal["keep", "redraw"] = "keep"
    silent_below_db: float = pydantic.Field(default=-60.0, lt=0)
    corrupt: Literal["stop", "substitute"] = "stop"
    threads: int = pydantic.Field(default=4, ge=1)
    prefetch: int = pydantic.Field(default=4, ge=1)

    @pydantic.model_validator(mode="after")
    def _there_is_a_root(self) -> "DataConfig":
        if (self.root is None) != (self.layout == "synthetic"):
            raise ValueError("give 'root', the folder of the tracks (and none for the layout 'synthetic')")
        return self


class AugmentConfig(Config):
    """How examples are varied. Each decision follows from seed, step and example alone; the mixture is summed after it.

    On the device: gain, channels, polarity, shift. On the host: remixing, which needs other examples or tracks, and
    stretching.

    Attributes:
        gain_low: Each source is multiplied by a factor between this
        gain_high: and this (Open-Unmix: 0.25 to 1.25).
        swap_channels: Probability that a source's channels are reversed (Open-Unmix, Demucs: 0.5).
        flip_polarity: Probability that a source's sign changes (Demucs: 0.5).
        shift: Samples by up to which sources are moved against each other (Demucs).
        shift_together: Whether all sources of an example are moved alike (Demucs, in fine-tuning).
        remix: Probability that each source of an example comes from a track of its own (Open-Unmix: 1).
        remix_group: Examples of a batch that exchange sources at random, with their neighbours; none for no exchange
            (Demucs: 4).
        stretch: Probability that an example is played at another pitch and tempo; needs python-stretch (the extra
            'augment').
        pitch_semitones: Largest change of pitch, up or down (Demucs: 2; Spleeter: 1).
        tempo: Largest change of tempo, as a share (Demucs: 0.12; Spleeter: 0.1).
    """

    gain_low: float = pydantic.Field(default=1.0, ge=0, allow_inf_nan=False)
    gain_high: float = pydantic.Field(default=1.0, gt=0, allow_inf_nan=False)
    swap_channels: float = pydantic.Field(default=0.0, ge=0, le=1)
    flip_polarity: float = pydantic.Field(default=0.0, ge=0, le=1)
    shift: int = pydantic.Field(default=0, ge=0)
    shift_together: bool = False
    remix: float = pydantic.Field(default=0.0, ge=0, le=1)
    remix_group: int | None = pydantic.Field(default=None, ge=2)
    stretch: float = pydantic.Field(default=0.0, ge=0, le=1)
    pitch_semitones: float = pydantic.Field(default=2.0, ge=0, le=12)
    tempo: float = pydantic.Field(default=0.12, ge=0, le=0.5)

    @pydantic.model_validator(mode="after")
    def _low_is_not_above_high(self) -> "AugmentConfig":
        if self.gain_low > self.gain_high:
            raise ValueError(f"gain_low (= {self.gain_low}) is above gain_high (= {self.gain_high})")
        return self

    @property
    def any(self) -> bool:
        """Whether the mixture's own file would no longer be the sum of the sources."""
        return self != AugmentConfig(pitch_semitones=self.pitch_semitones, tempo=self.tempo)


class TrainingConfig(Config):
    """How long, in which portions, in what precision.

    Attributes:
        steps: Number of steps of the whole run.
        batch_size: Examples in one step, over all devices of all hosts.
        accumulation: In how many parts each device differentiates its share, one after the other.
        compute_dtype: What the network computes in; parameters, losses and gradients are float32.
        ema_decay: Weight of the old average of the parameters in each step; none for no average.
        ema_unbiased: Whether the average leaves out the parameters from before the first step.
        rematerialise: Whether the backward pass computes layers again, and their insides are not kept till then.
        seed: Of everything that is drawn.
    """

    steps: int = pydantic.Field(ge=1, le=MOST_EXAMPLES)
    batch_size: int = pydantic.Field(default=4, ge=1)
    accumulation: int = pydantic.Field(default=1, ge=1)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float | None = pydantic.Field(default=None, gt=0, lt=1)
    ema_unbiased: bool = False
    rematerialise: bool = False
    seed: int = pydantic.Field(default=0, ge=0, lt=2**31)


class CheckpointsConfig(Config):
    """When the state is saved, and what is kept.

    Attributes:
        every_steps: Steps between saves; the last step is always saved, and every validated one.
        keep_latest: How many.
        keep_best: How many, by validation SDR.
    """

    every_steps: int = pydantic.Field(default=1000, ge=1)
    keep_latest: int = pydantic.Field(default=2, ge=1)
    keep_best: int = pydantic.Field(default=1, ge=1)


class ValidationConfig(Config):
    """When whole tracks are separated and scored, as `jaxsep separate` would.

    Attributes:
        every_steps: Steps between validations; none for no validation.
        tracks: At most so many tracks; none for all.
        seconds: At most so much of the middle of each track; none for all of it.
        patience: The run ends when the score has not risen for so many validations; none for never.
    """

    every_steps: int | None = pydantic.Field(default=None, ge=1)
    tracks: int | None = pydantic.Field(default=None, ge=1)
    seconds: float | None = pydantic.Field(default=None, gt=0)
    patience: int | None = pydantic.Field(default=None, ge=1)


class LoggingConfig(Config):
    """What is told of a run.

    Attributes:
        every_steps: Steps between rows of metrics.jsonl; every row holds means over the steps since the one before.
        tensorboard: Whether TensorBoard's files are written too, below 'tensorboard'.
        excerpts: At most so many times in a run TensorBoard gets an excerpt of a validated track, to hear and to see:
            mixture, true sources and estimates. They are spread evenly over the run; 0 for none.
        excerpt_every: Validations from one excerpt to the next, or more where `excerpts` allows no more of them.
    """

    every_steps: int = pydantic.Field(default=10, ge=1)
    tensorboard: bool = True
    excerpts: int = pydantic.Field(default=20, ge=0)
    excerpt_every: int = pydantic.Field(default=1, ge=1)


class RunConfig(Config):
    """All of a run.

    Attributes:
        model: What is trained.
        init: What it starts from; none for random numbers.
        data: Which tracks.
        augment: How they are varied.
        loss: The objective.
        optimizer: What minimises it.
        training: How long.
        checkpoints: What is kept.
        validation: What is scored.
        logging: What is told.
    """

    model: ModelSpec
    init: InitConfig | None = None
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    validation: ValidationConfig = ValidationConfig()
    logging: LoggingConfig = LoggingConfig()

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _the_parts_fit(cls, data: Any, handler: Callable[[Any], Any]) -> "RunConfig":
        """Tells at once what is wrong in the parts, and what does not fit between those that are right."""
        try:
            config = handler(data)
            found = [misfit(each, data) for each in _misfits(dict(config))]
        except pydantic.ValidationError as error:
            found = findings(error)
            found += [misfit(each, data) for each in _misfits(_right_parts(cls, data, error))]
        if found:
            raise pydantic.ValidationError.from_exception_data(cls.__name__, found)
        return config

    @property
    def segment_length(self) -> int:
        """Samples of what the network sees of an example."""
        return self.data.segment_length or self.model.chunk_length


def _right_parts(config: type[RunConfig], data: Any, error: pydantic.ValidationError) -> dict[str, Any]:
    """Returns those parts of a config, of which some are wrong, that are right."""
    wrong = {each["loc"][0] for each in error.errors() if each["loc"]}
    if not isinstance(data, Mapping):
        return {}
    right = {}
    for name, field in config.model_fields.items():
        if name in data and name not in wrong:
            annotation: Any = field.annotation
            right[name] = pydantic.TypeAdapter(annotation).validate_python(data[name])
        elif name not in data and not field.is_required():
            right[name] = field.default
    return right


def _misfits(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yields what does not fit together, a clause each.

    Args:
        parts: Those of a config that are right by themselves, by name.
    """
    model, data, training, validation, optimizer, augment, loss = (
        parts.get(name) for name in ("model", "data", "training", "validation", "optimizer", "augment", "loss")
    )
    if model and loss:
        length = data.segment_length if data and data.segment_length else model.chunk_length
        try:
            loss.check(model, length)
        except ConfigError as error:
            yield str(error).removesuffix(".")
    if model and data:
        for stem in data.stems:
            if stem not in model.stems:
                yield f"data.stems names '{stem}', and the model's stems are {', '.join(model.stems)}"
    if model and data and data.segment_length is not None:
        try:
            model.check_length(data.segment_length)
        except ConfigError as error:
            yield f"data.segment_length: {error}".removesuffix(".")
    if data and augment and data.mixture == "file" and augment.any:
        yield "the mixture of augmented sources is their sum: use data.mixture 'sum'"
    if training and augment and augment.remix_group and training.batch_size % augment.remix_group:
        yield (
            f"training.batch_size (= {training.batch_size}) must be a multiple of augment.remix_group "
            f"(= {augment.remix_group}), the examples that exchange their sources"
        )
    if training and training.rematerialise and model:
        try:
            model.layers_rematerialised()
        except ConfigError as error:
            yield f"training.rematerialise: {error}".removesuffix(".")
    if validation and validation.every_steps is None:
        if validation.patience is not None or (optimizer and optimizer.schedule.kind == "plateau"):
            yield "a plateau or patience needs validation.every_steps"
    if training and training.steps * training.batch_size > MOST_EXAMPLES:
        yield (
            f"training.steps times training.batch_size are {training.steps * training.batch_size} examples, and "
            f"{MOST_EXAMPLES} can be counted; lower one of them"
        )


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: 'key.path=value' each, the value in YAML.

    Raises:
        ConfigError: One sentence: the file or an override cannot be read, or a value is not allowed.
    """
    data = read_recipe(path, overrides)
    return RunConfig.parse(_with_model(data, path), where=str(path))


def _with_model(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Completes the model's description: from the checkpoint that the run starts from, and by where it comes from."""
    model = data.get("model", {})
    init = data.get("init")
    if not isinstance(model, Mapping):
        return dict(data)
    if isinstance(init, Mapping) and isinstance(init.get("checkpoint"), str):
        from jaxsep.weights.checkpoint import read_spec
        from jaxsep.weights.pretrained import resolve

        try:
            started_from = _member_of(read_spec(resolve(init["checkpoint"])), init.get("member"))
        except CheckpointError as error:
            raise ConfigError(f"init.checkpoint of {path}: {error}") from None
        try:
            changes = changes_from_version_1(model, started_from.model_dump()) if is_version_1(model) else model
        except ValueError as error:
            raise ConfigError(f"The model of {path}: {error}.") from None
        base = _without_lengths(started_from.model_dump(), changes)
        model = _merged(base, {"name": path.stem, "provenance": None, **changes})
        if model["provenance"] is None:
            model["provenance"] = f"fine-tuned from {started_from.name} with jaxsep {__version__}"
    model = {"licence": "not stated", "provenance": f"trained with jaxsep {__version__}", **model}
    return {**data, "model": model}


def _member_of(spec: AnySpec, member: Any) -> ModelSpec:
    """Returns the model that a run starts from: of an ensemble, one of its members.

    Raises:
        CheckpointError: No member is named, or one that there is not.
    """
    if isinstance(spec, ModelSpec):
        return spec
    if not isinstance(member, int) or not 0 <= member < len(spec.members):
        raise CheckpointError(
            f"'{spec.name}' is an ensemble; name one of its members 0 to {len(spec.members) - 1} by init.member."
        )
    return spec.members[member]


def _without_lengths(base: dict[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model to start from without the lengths of its chunks, where a recipe gives one: others follow."""
    given: Any = model.get("procedure")
    given = given.get("cutting") if isinstance(given, Mapping) else None
    if isinstance(given, Mapping) and given.keys() & {"chunk_length", "estimate_length"}:
        for key in ("chunk_length", "estimate_length", "chunk_hop"):
            base["procedure"]["cutting"].pop(key, None)
    return base


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """Returns the keys, of those that must stay, in which two configs differ."""
    flat_before, flat_after = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    changed = [key for key in {**flat_before, **flat_after} if flat_before.get(key, ...) != flat_after.get(key, ...)]
    return [key for key in changed if not any(key == each or key.startswith(f"{each}.") for each in CHANGEABLE)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return flat
