"""All that is wrong with what a run is to learn from, told at once and not one after the other."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxsep.errors import ConfigError, JaxsepError

# More than these are counted, not listed.
MOST_LISTED = 50


class Problems:
    """Errors that were met and put aside, each once, until all was looked at."""

    def __init__(self) -> None:
        """Has met none yet."""
        self._errors: dict[str, JaxsepError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def errors(self) -> list[JaxsepError]:
        """What was met, in order."""
        return list(self._errors.values())

    def add(self, error: JaxsepError) -> None:
        """Puts an error aside."""
        self._errors.setdefault(str(error), error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Puts an error that ends the block aside."""
        try:
            yield
        except JaxsepError as error:
            self.add(error)

    def refuse(self) -> None:
        """Raises what was met.

        Raises:
            JaxsepError: The one error, as it is; where there are several, a ConfigError that lists them.
        """
        errors = self.errors
        if len(errors) == 1:
            raise errors[0]
        if errors:
            listed = [f"  {error}" for error in errors[:MOST_LISTED]]
            more = len(errors) - len(listed)
            listed += [f"  and {more} more."] if more else []
            raise ConfigError("\n".join([f"{len(errors)} problems:", *listed]))
