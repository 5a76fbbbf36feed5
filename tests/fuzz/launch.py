"""Enters an environment of environments.py, given as JSON, and becomes the command that follows it."""

import json
import os
import resource
import sys


def main():
    environment, command = json.loads(sys.argv[1]), sys.argv[2:]
    merged = {**os.environ, **environment["variables"]}
    for number, what in environment["descriptors"].items():
        replace(int(number), what)
    if environment["folder"] == "deleted":
        place = f"deleted-{os.getpid()}"
        os.mkdir(place)
        os.chdir(place)
        os.rmdir(os.getcwd())
    elif environment["folder"] == "read-only":
        os.chdir("/proc")
    for name, value in environment["limits"].items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))
    os.execve(command[0], command, {name: value for name, value in merged.items() if value is not None})


def replace(number, what):
    if what == "closed":
        os.close(number)
        return
    if what == "gone":
        read, opened = os.pipe()
        os.close(read)
    else:
        opened = os.open({"full": "/dev/full", "nowhere": "/dev/null"}[what], os.O_RDWR)
    os.dup2(opened, number)  # which the command inherits
    os.close(opened)


if __name__ == "__main__":
    main()
