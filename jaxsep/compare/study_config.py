"""The config of a study: what `jaxsep compare study` reads, key by key. No arrays; files only to read it."""

from pathlib import Path
from typing import Literal

import pydantic

from jaxsep.compare.legs import PACKAGES
from jaxsep.compare.twins import TWIN_FRAMEWORKS, check_twin
from jaxsep.config import Config
from jaxsep.errors import JaxsepError, nearest
from jaxsep.models.spec import ModelSpec
from jaxsep.recipe import read_recipe


class StudyData(Config):
    """Which songs are learned from, and which are scored.

    Attributes:
        root: A folder with a folder for each song, and in it an audio file for each source; none for `synthetic`.
        synthetic: Compute songs instead: tones and noise.
        test: Names of the songs that are scored and never learned from; none for all but the first synthetic ones.
        start_seconds: Where in a test song scoring starts.
        seconds: How much of it is scored; None for all that follows.
        gain_low: Each source of an example is multiplied by a factor between this...
        gain_high: ... and this.
        remix: Probability that the sources of an example come from songs and places of their own.
    """

    root: str | None = None
    synthetic: bool = False
    test: tuple[str, ...] = ()
    start_seconds: float = pydantic.Field(0.0, ge=0)
    seconds: float | None = pydantic.Field(None, gt=0)
    gain_low: float = pydantic.Field(1.0, gt=0)
    gain_high: float = pydantic.Field(1.0, gt=0)
    remix: float = pydantic.Field(0.0, ge=0, le=1)

    @pydantic.model_validator(mode="after")
    def _songs_come_from_somewhere(self) -> "StudyData":
        if (self.root is None) != self.synthetic:
            raise ValueError("give 'root', the folder of the songs, or 'synthetic: true'")
        if self.root is not None and not self.test:
            raise ValueError("name the songs that are scored under 'test'")
        if self.gain_low > self.gain_high:
            raise ValueError(f"'gain_low' is {self.gain_low}, above 'gain_high', {self.gain_high}")
        return self


class StudyTraining(Config):
    """How each network is trained: Adam on the mean absolute error of magnitudes, as Spleeter is.

    Attributes:
        steps: How many.
        batch_size: Examples in a step, each a chunk of the model.
        learning_rate: Of Adam.
    """

    steps: int = pydantic.Field(ge=1)
    batch_size: int = pydantic.Field(4, ge=1)
    learning_rate: float = pydantic.Field(1e-4, gt=0)


class StudyConfig(Config):
    """A study.

    Attributes:
        model: The network, and what surrounds it. It works on magnitudes, and its family has a twin in each framework.
        data: The songs.
        training: How it is learned.
        seeds: How many runs each framework makes; each seed has its own first weights and its own batches.
        frameworks: Which, as `jaxsep compare speed` calls them; differences are against the first.
        stem: The stem whose difference is the primary result; None for the model's first.
        metric: The metric of the primary result, the median over frames of one second.
        margin_db: Differences smaller than this count as none.
        threads: Of each framework; None for all processors.
    """

    model: ModelSpec
    data: StudyData
    training: StudyTraining
    seeds: int = pydantic.Field(8, ge=1)
    frameworks: tuple[str, ...] = ("jax", "torch", "tensorflow-function")
    stem: str | None = None
    metric: Literal["sdr", "isr", "sir", "sar"] = "sdr"
    margin_db: float = pydantic.Field(0.1, gt=0)
    threads: int | None = pydantic.Field(None, ge=1)

    @pydantic.model_validator(mode="after")
    def _the_parts_fit(self) -> "StudyConfig":
        for name in self.frameworks:
            if name not in PACKAGES:
                raise ValueError(f"there is no framework '{name}'.{nearest(name, PACKAGES)}")
        if len(set(self.frameworks)) != len(self.frameworks) or len(self.frameworks) < 2:
            raise ValueError("'frameworks' are to be two or more, each once")
        try:
            self.model.domain.magnitudes("a study")
            for package in sorted({PACKAGES[name] for name in self.frameworks} & TWIN_FRAMEWORKS.keys()):
                check_twin(self.model, package)
        except JaxsepError as error:
            raise ValueError(str(error)) from None
        if self.stem is not None and self.stem not in self.model.stems:
            raise ValueError(f"the model has no stem '{self.stem}'.{nearest(self.stem, self.model.stems)}")
        return self

    @property
    def primary_stem(self) -> str:
        """The stem of the primary result."""
        return self.stem or self.model.stems[0]


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Reads a study.

    Args:
        path: The YAML file.
        overrides: 'key.path=value' each, the value in YAML.

    Raises:
        ConfigError: One sentence: the file cannot be read, or a value is not allowed.
    """
    data = read_recipe(path, overrides)
    model = data.get("model")
    if isinstance(model, dict):
        model.setdefault("licence", "not stated")
        model.setdefault("provenance", "trained in a comparison of frameworks")
    return StudyConfig.parse(data, where=str(path))
