"""The strict renaming engine: foreign names and layouts to a model's variables, all of them or an error.

The rules are in `<family>.py`, the files in `readers.py`.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.typing import Variables
from jaxsep.weights.tree import flatten, unflatten

# Where more names than this go wrong, what they resemble would bury what they are.
_HINTS_FOR_AT_MOST = 8


@dataclass(frozen=True)
class Rename:
    r"""Where a foreign array goes.

    Attributes:
        pattern: Regular expression that the whole foreign name must match.
        target: Path in the variables, joined by slashes, as a template of `re.Match.expand`
            ('params/source_\1/mask/bias').
        transform: What turns the foreign layout into ours; None where they are the same.
    """

    pattern: str
    target: str
    transform: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Drop:
    """A foreign array that is left out on purpose.

    Attributes:
        pattern: Regular expression that the whole foreign name must match.
        reason: Why the model does without it.
        optional: Whether it may also be absent from the file.
    """

    pattern: str
    reason: str
    optional: bool = False


Rule = Rename | Drop


@dataclass
class _Findings:
    """What does not fit, by kind."""

    unmapped: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        kinds = {
            "without a rule": self.unmapped,
            "matched by more than one rule": self.ambiguous,
            "bound for one place": self.shared,
            "sent to where the model has nothing": self.unknown,
            "of the wrong shape or type": self.misshapen,
            "not finite": self.not_finite,
            "rules that match nothing": self.unused,
            "variables left without a value": self.unfilled,
        }
        return "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names)


def apply(
    rules: Sequence[Rule], source: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], *, where: str
) -> dict[str, Any]:
    """Moves every foreign array to its place.

    Args:
        rules: Every foreign name must match just one, and every rule must match something, but for optional drops.
        source: Foreign arrays by name.
        expected: Path and shape of each variable that the model needs, as `tree.expected_shapes` gives them.
        where: Where the arrays come from, for the message.

    Returns:
        The variables: nested dicts of float32 arrays.

    Raises:
        CheckpointError: Anything is left over, missing, double, misshapen or not finite; the message names all of it.
    """
    findings = _Findings()
    origins: dict[str, list[str]] = defaultdict(list)
    leaves: dict[str, np.ndarray] = {}
    used: set[int] = set()
    compiled = [re.compile(rule.pattern) for rule in rules]
    for name, array in source.items():
        matches = [(i, match) for i, pattern in enumerate(compiled) if (match := pattern.fullmatch(name))]
        used.update(i for i, _ in matches)
        if len(matches) != 1:
            patterns = " and ".join(f"'{rules[i].pattern}'" for i, _ in matches)
            (findings.ambiguous if matches else findings.unmapped).append(
                f"'{name}'" + (f" ({patterns})" if matches else "")
            )
            continue
        rule, match = rules[matches[0][0]], matches[0][1]
        if isinstance(rule, Drop):
            continue
        path = match.expand(rule.target)
        origins[path].append(name)
        if path not in expected:
            findings.unknown.append(f"'{name}' ({path})")
            continue
        leaf = _transformed(name, array, rule, expected[path], findings)
        if leaf is not None:
            leaves[path] = leaf
    findings.shared += [
        f"{' and '.join(map(repr, names))} ({path})" for path, names in sorted(origins.items()) if len(names) > 1
    ]
    findings.unused += [
        f"'{rule.pattern}'"
        for i, rule in enumerate(rules)
        if i not in used and not (isinstance(rule, Drop) and rule.optional)
    ]
    findings.unfilled += [path for path in sorted(expected) if path not in origins]
    _hint(findings, [rule.pattern for i, rule in enumerate(rules) if i not in used])
    if report := findings.sentence():
        raise CheckpointError(f"The weights of {where} do not fit the model: {report}.")
    return unflatten(dict(sorted(leaves.items())))


def named_by(rules: Sequence[Rule], variables: Variables) -> dict[str, np.ndarray]:
    """Returns variables under the foreign names that rules read, each of which is of one name and changes no layout.

    What the rules drop and must be there, such as norms that nothing depends on, is made up.

    Args:
        rules: Rules for the foreign names.
        variables: The model's variables.
    """
    leaves = flatten(variables)
    named = {}
    for rule in rules:
        if isinstance(rule, Rename):
            named[rule.pattern.replace("\\", "")] = np.asarray(leaves[rule.target])
        elif not rule.optional:
            stem, _, kinds = rule.pattern.partition("(")
            named |= {stem + kind: np.zeros(1, np.float32) for kind in kinds.rstrip(")").split("|")}
    return named


def _transformed(
    name: str, array: np.ndarray, rule: Rename, shape: tuple[int, ...], findings: _Findings
) -> np.ndarray | None:
    """Returns the array in the model's layout and type, or None after noting why it cannot be."""
    if array.dtype.kind != "f":
        findings.misshapen.append(f"'{name}' (got {array.dtype}, expected floating point)")
        return None
    try:
        moved = array if rule.transform is None else rule.transform(array)
    except ValueError:
        findings.misshapen.append(f"'{name}' (got {array.shape}, which cannot become {shape})")
        return None
    if moved.shape != shape:
        became = "" if moved.shape == array.shape else f", which becomes {moved.shape}"
        findings.misshapen.append(f"'{name}' (got {array.shape}{became}, expected {shape})")
        return None
    # A float64 out of float32's range becomes infinite, which is then reported.
    with np.errstate(over="ignore"):
        leaf = np.ascontiguousarray(moved, np.float32).reshape(shape)
    if not np.isfinite(leaf).all():
        findings.not_finite.append(f"'{name}'")
        return None
    return leaf


def _hint(findings: _Findings, unused: list[str]) -> None:
    """Adds to each name without a rule the rule without a name that it resembles."""
    if len(findings.unmapped) > _HINTS_FOR_AT_MOST:
        return
    for i, quoted in enumerate(findings.unmapped):
        close = difflib.get_close_matches(quoted.strip("'"), unused, n=1)
        if close:
            findings.unmapped[i] = f"{quoted} (like the rule '{close[0]}')"
