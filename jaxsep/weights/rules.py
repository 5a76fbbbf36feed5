"""Which rules there are for weights of other programs: `RULES`, one literal dict, and those of registered families."""

from jaxsep.errors import ConfigError, nearest
from jaxsep.models import find_family
from jaxsep.models.spec import ModelSpec
from jaxsep.weights import classic_unet, demucs, demucs_v2, jansson, spleeter, wave_unet, wave_unet_resampled
from jaxsep.weights.family_rules import FamilyRules

# By the name of the format, which `jaxsep convert --family` takes.
RULES: dict[str, FamilyRules] = {
    "spleeter": spleeter.RULES,
    "jansson": jansson.RULES,
    "classic_unet": classic_unet.RULES,
    "wave_unet": wave_unet.RULES,
    "wave_unet_resampled": wave_unet_resampled.RULES,
    "demucs": demucs.RULES,
    "demucs_v2": demucs_v2.RULES,
}

# The published forms of all families by name.
SPECS: dict[str, ModelSpec] = {name: spec for rules in RULES.values() for name, spec in rules.forms.items()}
_BY_FAMILY = {family: rules for rules in RULES.values() for family in rules.families}


def rules_of(name: str) -> FamilyRules:
    """Returns the rules for a format, or for weights of a family's networks.

    Args:
        name: Name of a format, such as 'spleeter', or of a family: one of jaxsep's, or a registered one that states how
            it recognises foreign weights.

    Raises:
        ConfigError: There are no such rules.
    """
    if (found := RULES.get(name) or _BY_FAMILY.get(name)) is not None:
        return found
    try:
        family = find_family(name)
    except ConfigError as error:
        hint = nearest(name, RULES)
        raise ConfigError(f"There are no rules for '{name}'.{hint}" if hint else f"{error!s}") from None
    if family.recognise is None:
        raise ConfigError(
            f"The family '{name}' states no rules for weights of another program; give it a function 'recognise'."
        )
    return FamilyRules((name,), family.recognise)
