"""Calibration services of one camera, as camera_info_manager offers them."""

from pathlib import Path

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from sensor_msgs.srv import SetCameraInfo
from std_srvs.srv import Trigger

from diffphyscam_ros.calibrated import with_calibration
from diffphyscam_ros.camera import CameraInfo, PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration
from diffphyscam_ros.io.files import write_text
from diffphyscam_ros.io.info_url import resolve_url
from diffphyscam_ros.nodes.aside import Aside
from diffphyscam_ros.rectification import Rectification


class CalibrationServices:
    """``set_camera_info`` and ``save_calibration`` of one camera."""

    def __init__(self, node: Node, camera: str, url: str) -> None:
        """
        Create the services.

        :param node: a CameraNode.
        :param url: ``camera_info_url``.
        """
        self._node, self._camera, self._url = node, camera, url
        self._files = Aside()
        group = ReentrantCallbackGroup()
        node.create_service(SetCameraInfo, f'{camera}/set_camera_info', self._on_set,
                            callback_group=group)
        node.create_service(Trigger, f'{camera}/save_calibration', self._on_save,
                            callback_group=group)

    def close(self) -> None:
        """Finish the files that are being written."""
        self._files.close()

    async def _on_set(self, request: SetCameraInfo.Request,
                      response: SetCameraInfo.Response) -> SetCameraInfo.Response:
        """Render with the K and D that are given, publish R and P, keep all where the URL says."""
        info = request.camera_info
        try:
            self._node.cameras.replace(self._camera,
                                       *calibrated(self._node.model(self._camera), info))
            path = resolve_url(self._url, camera_name=self._camera)
            text = calibration.dumps(info, camera_name=self._camera)
            await self._files.run(write_text, path, text)
        except InputError as error:
            response.success, response.status_message = False, str(error)
            return response
        response.success, response.status_message = True, f'written to {path}'
        return response

    async def _on_save(self, _: Trigger.Request, response: Trigger.Response
                       ) -> Trigger.Response:
        """Write the calibration file, and the whole camera beside it."""
        try:
            path = resolve_url(self._url, camera_name=self._camera)
            with self._node.loop.lock:
                model = self._node.model(self._camera)
                info = self._node.simulator.info(self._camera)
            whole = await self._files.run(save_camera, path, model, info, self._camera)
        except InputError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        response.message = f'camera_info in {path}, the whole camera in {whole}'
        return response


def save_camera(path: Path, camera: PhysicalCamera, info: CameraInfo, name: str) -> Path:
    """Write camera_info to ``path`` and the camera model beside it; returns the latter's path."""
    calibration.write(path, info, camera_name=name)
    whole = path.with_name(f'{path.stem}.camera.yaml')
    camera.save(whole)
    return whole


def load_calibration(camera: PhysicalCamera, url: str, name: str
                     ) -> tuple[PhysicalCamera, Rectification]:
    """Take what ``url`` says; raises InputError if the file is missing or cannot be used."""
    return calibrated(camera, calibration.read(resolve_url(url, camera_name=name)))


def calibrated(camera: PhysicalCamera, info: object) -> tuple[PhysicalCamera, Rectification]:
    """Give a camera the K and D of a message or file, and what that says of R and P."""
    calibration.check(info)
    camera = with_calibration(camera, info)
    return camera, Rectification.of(info, camera.camera_info())
