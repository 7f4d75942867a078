"""Where ``camera_info_url`` points, as camera_info_manager resolves it."""

import os
from pathlib import Path
import re

from diffphyscam_ros.errors import InputError

#: What camera_info_manager takes where no URL is given.
DEFAULT_URL = 'file://${ROS_HOME}/camera_info/${NAME}.yaml'


def resolve_url(url: str, *, camera_name: str) -> Path:
    """
    Turn a URL into a path.

    ``file:///absolute/path`` and ``package://name/path``; ``${NAME}`` is the camera's name,
    ``${ROS_HOME}`` the folder of that environment variable or ~/.ros. Empty: the default.

    :param camera_name: for ``${NAME}``.
    """
    text = re.sub(r'\$\{([A-Za-z_]*)\}', lambda m: _variable(m, url, camera_name),
                  url or DEFAULT_URL)
    if text.startswith('file:///'):
        return Path(text.removeprefix('file://'))
    if text.startswith('package://'):
        package, _, path = text.removeprefix('package://').partition('/')
        if package and path:
            return _package_share(package) / path
    raise InputError(f'camera_info_url {url!r} is not supported; '
                     'pass file:///absolute/path or package://package/path.')


def _variable(match: re.Match, url: str, camera_name: str) -> str:
    if match[1] == 'NAME':
        return camera_name
    if match[1] == 'ROS_HOME':
        return os.environ.get('ROS_HOME') or str(Path.home() / '.ros')
    raise InputError(f'camera_info_url {url!r} contains ${{{match[1]}}}; '
                     'only ${NAME} and ${ROS_HOME} are known.')


def _package_share(package: str) -> Path:
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        share = Path(prefix) / 'share' / package
        if prefix and share.is_dir():
            return share
    raise InputError(f'package {package!r} of camera_info_url is not installed; '
                     'source its workspace or pass file:///absolute/path.')
