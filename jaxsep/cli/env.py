"""`jaxsep env`: versions, devices and directories, for bug reports."""

from jaxsep.cli.runtime import DeviceKind, choose_device
from jaxsep.environment import cache_directory, compilation_key, processor, versions


def env() -> None:
    """Print versions, devices and cache directories, as a bug report needs them."""
    choose_device(DeviceKind.auto)
    import jax

    for package, version in versions().items():
        print(f"{package:18} {version}")
    print(f"{'processor':18} {processor()}")
    for device in jax.devices():
        print(f"{'device':18} {device.device_kind} ({device.platform}:{device.id})")
    cache = cache_directory()
    if cache is None:
        print(f"{'cache':18} none: there is no home directory; name a place by JAXSEP_CACHE")
    else:
        print(f"{'cache':18} {cache}")
        print(f"{'compiled programs':18} {cache / 'compiled' / compilation_key()}")
