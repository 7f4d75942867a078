"""Start the camera node so that a signal ends it at any moment, while Python imports, too."""

from collections.abc import Sequence
import os
import signal


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM; bad input: one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))      # nothing is open yet
    _load_torch()
    from diffphyscam_ros.nodes import camera_node  # the rest of torch alone takes a second
    camera_node.main(arguments)


def _load_torch() -> None:
    """
    Load the largest library of torch, 0.4 GB and more, and let signals come through meanwhile.

    ``import torch`` holds the interpreter while the system's loader works, 1 s to 2 s on a busy
    machine, and a signal's handler waits for it; a foreign call in another thread does not.
    Where there is no such file the import does it all.
    """
    import ctypes
    import importlib.util
    from pathlib import Path
    import threading

    torch = importlib.util.find_spec('torch')
    for folder in torch.submodule_search_locations if torch else ():
        for library in Path(folder, 'lib').glob('libtorch_cpu.*'):
            loader = threading.Thread(target=ctypes.CDLL(None).dlopen, daemon=True,
                                      args=(str(library).encode(), os.RTLD_NOW))
            loader.start()
            while loader.is_alive():
                loader.join(0.05)


if __name__ == '__main__':
    main()
