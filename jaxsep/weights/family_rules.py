"""What the rules of a family are, and how a published form becomes a spec. No family's names.

The rules themselves are in one file for each family, and `RULES` in `rules.py` names them all.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxsep.models.domain import Domain
from jaxsep.models.family import NetworkConfig
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables
from jaxsep.weights.forms import Form
from jaxsep.weights.mapping import Rule, apply
from jaxsep.weights.readers import read_weights, weight_files
from jaxsep.weights.tree import expected_shapes

# Called as `recognise(arrays, name=..., where=...)`: finds the spec of foreign arrays, and the rules for them.
Recognise = Callable[..., tuple[ModelSpec, list[Rule]]]


class Publication(NamedTuple):
    """What is known of weights that somebody published.

    Attributes:
        description: What they are, who published them and where.
        licence: Licence under which they were published.
    """

    description: str
    licence: str


class ForeignModel(NamedTuple):
    """A network in weights of another program.

    Attributes:
        spec: Spec of the model that it becomes.
        rules: Rules that take its arrays to the model's variables.
        arrays: Arrays by the names that the other program gives them.
        where: Where the arrays come from, for messages.
    """

    spec: ModelSpec
    rules: list[Rule]
    arrays: Mapping[str, np.ndarray]
    where: str

    def variables(self) -> Variables:
        """Returns the variables of the model.

        Raises:
            CheckpointError: The arrays do not fit the model.
        """
        return apply(self.rules, self.arrays, expected_shapes(self.spec), where=self.where)


class ForeignWeights(NamedTuple):
    """What is in the files of another program.

    Attributes:
        models: One network, or the members of an ensemble.
        weights: Weight of each member for each source; None for one network.
        files: Files that hold the weights.
        name: Name of the ensemble; empty for one network.
    """

    models: tuple[ForeignModel, ...]
    weights: tuple[tuple[float, ...], ...] | None
    files: tuple[Path, ...]
    name: str = ""


class FamilyRules(NamedTuple):
    """What is known of weights that another program wrote for networks of one family, or of several.

    Attributes:
        families: Names of the families whose networks they become.
        recognise: Finds the spec of an array collection, and the rules that take its arrays to the variables.
        forms: Specs of the published forms by name, licence and provenance not stated.
        published: Known weights by the sha256 of their variables in float32 (`checkpoint.hash_arrays`).
        open: Called as `open(source, name)` in place of `recognise` where files say more than arrays by name.
    """

    families: tuple[str, ...]
    recognise: Recognise
    forms: Mapping[str, ModelSpec] = {}
    published: Mapping[str, Publication] = {}
    open: Callable[[Path, str | None], ForeignWeights] | None = None

    def read(self, source: Path, name: str | None) -> ForeignWeights:
        """Reads weights of the other program.

        Args:
            source: File or folder of the weights.
            name: Name that the model is given; None for that of the published form, or of the file.

        Raises:
            CheckpointError: They cannot be read, or are not of these families.
        """
        if self.open is not None:
            return self.open(source, name)
        arrays = read_weights(source)
        spec, rules = self.recognise(arrays, name=name, where=str(source))
        return ForeignWeights((ForeignModel(spec, rules, arrays, str(source)),), None, tuple(weight_files(source)))


def form_spec(form: Form, config: NetworkConfig, domain: Domain, procedure: Procedure) -> ModelSpec:
    """Returns the spec of a published form, licence and provenance not stated."""
    return ModelSpec(
        name=form.name,
        family=form.family,
        config=config,
        stems=form.stems,
        sample_rate=form.sample_rate,
        channels=config.channels,
        domain=domain,
        procedure=procedure,
        licence="not stated",
        provenance="not stated",
    )
