"""What a network states that hears a track from end to end, so that any length fits into bounded memory.

Its layers run in passes over pieces of the track. Between two passes activations wait on disk; within one, recurrent
layers hand their state from piece to piece, forwards or backwards. The passes give what `__call__` gives of the whole.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float

# What a forward pass may read beside activations: the network's input. What its last pass writes.
INPUT, OUTPUT = "input", "output"


class NetworkPass(NamedTuple):
    """One pass over the pieces of a track.

    Attributes:
        name: Name of the pass.
        reads: Names of the activations that it reads; `INPUT` stands for what the network sees, in forward passes.
        writes: Names of the activations that it writes; `OUTPUT` stands for the network's estimates, in the last pass,
            a forward one.
        is_backward: Whether it goes from the last piece to the first.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    is_backward: bool = False


@runtime_checkable
class WholeTrackNetwork(Protocol):
    """A linen module that can be run in passes.

    Pieces have one number of frames; those behind the track's last one are not there, and change no state.
    """

    def passes(self) -> tuple[NetworkPass, ...]:
        """Returns the passes in their order."""
        ...

    def initial_carry(self, name: str, batch: int) -> Any:
        """Returns the state of recurrent layers in front of a pass's first piece, arrays with a leading batch axis."""
        ...

    def run_pass(
        self,
        name: str,
        carry: Any,
        inputs: Mapping[str, Float[Array, "batch ..."]],
        there: Bool[Array, "batch frame"],
    ) -> tuple[Any, dict[str, Float[Array, "batch ..."]]]:
        """Runs a pass over one piece; called through `module.apply(variables, ..., method="run_pass")`.

        Args:
            name: Name of the pass.
            carry: State behind the piece before.
            inputs: What the pass reads, by name.
            there: Which frames of the piece the track has.

        Returns:
            The state behind this piece, and what the pass writes, by name.
        """
        ...
