"""The sub-commands of ``diffphyscam``: each module has ``add_parser(subparsers)``."""
