"""PyBullet's own TinyRenderer on the same world and view: for comparison and for benchmarks."""

from dataclasses import dataclass
from pathlib import Path
import tempfile

import cv2
import numpy as np

from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.materials import linear_to_srgb
from diffphyscam_ros.scene.world import World

_MAX_TEXTURE = 1024


@dataclass(frozen=True)
class TinyImage:
    """What TinyRenderer draws."""

    rgb: np.ndarray
    """(H, W, 3) uint8, gamma-encoded."""
    depth: np.ndarray
    """(H, W) [m] along the optical axis; ``far`` where nothing is hit."""
    body: np.ndarray
    """(H, W) PyBullet body of the pixel, -1 where nothing is hit."""


def add_textures(world: World) -> None:
    """Give PyBullet's copies of the procedural meshes their textures, at most 1024 px."""
    client, loaded = world.client, {}
    with tempfile.TemporaryDirectory(prefix='diffphyscam_') as folder:
        for number, visual in enumerate(world.visuals):
            texture = visual.material.base_color
            shown = client.getVisualShapeData(visual.body)
            if texture.shape[:2] == (1, 1) or len(shown) != 1 or shown[0][4]:
                continue        # plain, or a file that brings its own texture
            if id(texture) not in loaded:
                image = linear_to_srgb(texture.numpy())
                scale = min(1.0, _MAX_TEXTURE / max(image.shape[:2]))
                size = tuple(max(round(s * scale), 1) for s in image.shape[1::-1])
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                path = Path(folder) / f'{number}.png'
                # TinyRenderer's row 0 is at v = 1.
                cv2.imwrite(str(path), (image[::-1, :, ::-1] * 255 + 0.5).astype(np.uint8))
                loaded[id(texture)] = client.loadTexture(str(path))
            client.changeVisualShape(visual.body, -1, textureUniqueId=loaded[id(texture)],
                                     rgbaColor=[1, 1, 1, 1])


def tiny_render(world: World, view: View, *, shadows: bool = True) -> TinyImage:
    """Draw a single view (K without skew) of the world as it is now, the sun as its light."""
    client = world.client
    height, width = view.size
    k = view.camera_matrix.double().numpy()
    near, far = view.near, view.far
    left, right = -(k[0, 2] + 0.5) / k[0, 0], (width - 0.5 - k[0, 2]) / k[0, 0]
    top, bottom = (k[1, 2] + 0.5) / k[1, 1], -(height - 0.5 - k[1, 2]) / k[1, 1]
    projection = client.computeProjectionMatrix(left * near, right * near, bottom * near,
                                                top * near, near, far)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])           # optical frame to OpenGL's camera
    pose = (flip @ view.T_camera_world.double().numpy()).T.ravel().tolist()
    sun = world.scene.sun
    light = [0.4, 0.3, 0.85] if sun is None else (-sun.direction).tolist()
    _, _, rgba, buffer, segmentation = client.getCameraImage(
        width, height, pose, projection, lightDirection=light, shadow=int(shadows),
        lightDistance=20, renderer=client.ER_TINY_RENDERER)
    z = np.asarray(buffer, dtype=np.float64).reshape(height, width)
    depth = far * near / (far - (far - near) * z)
    return TinyImage(np.asarray(rgba, dtype=np.uint8).reshape(height, width, 4)[..., :3], depth,
                     np.asarray(segmentation).reshape(height, width))
