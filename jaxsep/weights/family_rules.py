"""What the rules of a family are, and how a published form becomes a spec. No family's names.

The rules themselves are in one file for each family, and `RULES` in `rules.py` names them all.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxsep.models.domain import Domain
from jaxsep.models.family import NetworkConfig
from jaxsep.models.procedure import Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.forms import Form
from jaxsep.weights.mapping import Rule

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


class FamilyRules(NamedTuple):
    """What is known of weights that another program wrote for networks of a family.

    Attributes:
        family: Name of the family whose networks they become.
        recognise: Finds the spec of an array collection, and the rules that take its arrays to the variables.
        forms: Specs of the published forms by name, licence and provenance not stated.
        published: Known weights by the sha256 of their variables in float32 (`checkpoint.hash_arrays`).
    """

    family: str
    recognise: Recognise
    forms: Mapping[str, ModelSpec] = {}
    published: Mapping[str, Publication] = {}


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
