"""The command `jaxsep`, also as `python -m jaxsep`."""

import sys

from jaxsep.environment import open_standard_descriptors, restart_with_tuned_malloc


def main() -> None:
    """Runs the command line, `jaxsep separate` in a process that gets its memory in huge pages."""
    open_standard_descriptors()
    if sys.argv[1:2] == ["separate"]:
        restart_with_tuned_malloc()
    from jaxsep.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
