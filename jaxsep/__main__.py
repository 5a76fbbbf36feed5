"""The command `jaxsep`, also as `python -m jaxsep`."""

import sys

from jaxsep.environment import restart_with_tuned_malloc


def main() -> None:
    """Runs the command line; `jaxsep separate`, which computes, as a process whose memory costs less."""
    if sys.argv[1:2] == ["separate"]:
        restart_with_tuned_malloc()
    from jaxsep.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
