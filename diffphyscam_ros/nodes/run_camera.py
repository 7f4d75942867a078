"""Start the camera node so that a signal ends it at any moment, while Python imports, too."""

from collections.abc import Sequence
import os
import signal


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM; bad input: one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))      # nothing is open yet
    from diffphyscam_ros.nodes import camera_node  # torch alone takes a second or more
    camera_node.main(arguments)


if __name__ == '__main__':
    main()
