"""One PyBullet world as an object: every function of ``pybullet`` bound to its connection."""

from functools import partial
from typing import Any

import pybullet
import pybullet_data

from diffphyscam_ros.errors import InputError

Pose = tuple[tuple[float, float, float], tuple[float, float, float, float]]


class Client:
    """A DIRECT connection; attributes are pybullet's, bound to it."""

    def __init__(self) -> None:
        self._id = pybullet.connect(pybullet.DIRECT)
        if self._id < 0:
            raise InputError('PyBullet gave no connection; close other worlds of this process.')
        # By default PyBullet returns the OLD content of a file that was rewritten.
        self.setPhysicsEngineParameter(enableFileCaching=0)
        self.setAdditionalSearchPath(pybullet_data.getDataPath())

    def __getattr__(self, name: str) -> Any:
        value = getattr(pybullet, name)
        if callable(value) and name != 'error':
            needs_id = name not in ('getQuaternionFromEuler', 'getEulerFromQuaternion',
                                    'getMatrixFromQuaternion', 'multiplyTransforms',
                                    'invertTransform')
            value = partial(value, physicsClientId=self._id) if needs_id else value
        setattr(self, name, value)
        return value

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        if self._id >= 0:
            pybullet.disconnect(physicsClientId=self._id)
            self._id = -1
