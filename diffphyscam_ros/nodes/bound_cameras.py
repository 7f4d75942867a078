"""The cameras of a node: models whose every field is a parameter, changed between two frames."""

from collections.abc import Sequence
from dataclasses import replace

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.encoding import sensor_for
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.loop import Loop
from diffphyscam_ros.nodes.options import CameraLive, CameraOptions
from diffphyscam_ros.nodes.parameters import ParameterNode
from diffphyscam_ros.nodes.services import load_calibration
from diffphyscam_ros.rectification import Rectification
from diffphyscam_ros.simulator import camera_named


class BoundCameras:
    """Cameras read from parameters; once :meth:`connect`-ed, changes reach the loop."""

    def __init__(self, node: ParameterNode, names: Sequence[str]) -> None:
        """
        Declare the parameters of every camera and build the models.

        :param names: mounts of the scene file; with several of them the parameters of each
            begin with its name.
        """
        self._node, self._loop = node, None
        self._prefix = {n: '' if len(names) == 1 else f'{n}.' for n in names}
        self.options: dict[str, CameraOptions] = {}
        self.models: dict[str, PhysicalCamera] = {}
        """Cameras to start with."""
        self.rectifications: dict[str, Rectification] = {}
        """R and P to start with, of those cameras that have a calibration file."""
        self.rates: dict[str, float] = {}
        """[Hz]"""
        self.motion_samples: dict[str, int] = {}
        for name in names:
            prefix = self._prefix[name]
            self.options[name] = node.bind(prefix, CameraOptions())
            live = node.bind(prefix, CameraLive(), lambda new, n=name: self._apply_pace(n, new))
            self.rates[name] = live.frame_rate
            self.motion_samples[name] = live.motion_samples
            self.models[name] = self._camera(name)

    @property
    def stereo(self) -> dict[str, str]:
        """Right camera -> left camera of each pair."""
        return {n: o.stereo_left for n, o in self.options.items() if o.stereo_left}

    @property
    def frames(self) -> dict[str, str]:
        """Camera -> its optical frame."""
        return {n: o.frame_id or f'{n}_optical_frame' for n, o in self.options.items()}

    def prefix(self, name: str) -> str:
        """Return what the parameters of camera ``name`` begin with."""
        return self._prefix[name]

    def connect(self, loop: Loop) -> None:
        """From now on every change reaches the simulator of ``loop``."""
        self._loop = loop

    def replace(self, name: str, camera: PhysicalCamera,
                rectification: Rectification | None = None) -> None:
        """Switch to another camera between two frames; the parameters follow."""
        self._change(name, camera, rectification)
        self._node.refresh(self._prefix[name], camera)

    def _camera(self, name: str) -> PhysicalCamera:
        """Camera of the parameters: preset or file, then calibration, then single values."""
        options, prefix = self.options[name], self._prefix[name]
        camera = camera_named(options.model)
        if options.encoding:
            camera = replace(camera, sensor=sensor_for(options.encoding, camera.sensor))
        if options.camera_info_url:
            try:
                camera, self.rectifications[name] = load_calibration(
                    camera, options.camera_info_url, name)
            except InputError as error:
                self._node.get_logger().warning(
                    f'{name}: {error} The lens of its model is used.')
        # A camera that no rendering can serve is refused, before anything changes.
        return self._node.bind(prefix, camera, lambda new: self._change(name, new),
                               check=PhysicalCamera.render_view, flat='settings')

    def _change(self, name: str, camera: PhysicalCamera,
                rectification: Rectification | None = None) -> None:
        with self._loop.lock:
            self._loop.simulator.cameras[name] = camera
            if rectification:
                self._loop.simulator.rectify(name, rectification)

    def _apply_pace(self, name: str, new: CameraLive) -> None:
        with self._loop.lock:
            self._loop.simulator.motion_samples[name] = new.motion_samples
            if new.frame_rate != self._loop.cameras[name].rate:
                self._loop.set_rate(name, new.frame_rate)
