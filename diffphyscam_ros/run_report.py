"""What a run was like: a table of figures, a contact sheet, a video."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import get_typestore, Stores

from diffphyscam_ros.account import CameraState
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.contact_sheet import contact_sheet, track_map, write_png
from diffphyscam_ros.io.images import decode_message
from diffphyscam_ros.io.video import write_video
from diffphyscam_ros.scene.config import SceneConfig
from diffphyscam_ros.simulator import Simulator

_CONE_COLORS = {'orange': (235, 110, 20), 'red': (200, 30, 30), 'green': (30, 140, 60),
                'blue': (40, 80, 200), 'yellow': (225, 190, 20)}
_TILES = 11


def describe(state: CameraState, arrivals: dict, camera: str) -> str:
    """
    Table of what was published here and what arrived there.

    :param arrivals: the recorder's report: stamps and times of arrival [ns] per topic.
    """
    images = arrivals['topics'].get(f'/{camera}/image_raw', [])
    infos = arrivals['topics'].get(f'/{camera}/camera_info', [])
    frames = list(state.history)
    received = {stamp: arrival for stamp, arrival in images}
    latency = np.array([received[f.stamp] - f.exposed for f in frames if f.stamp in received])
    transport = np.array([received[f.stamp] - f.delivered for f in frames if f.stamp in received])
    paired = len(received.keys() & {stamp for stamp, _ in infos})
    rows = [
        ('published', f'{state.delivered} frames{_rate([f.delivered for f in frames])}, '
                      f'{state.dropped} skipped (asked: {state.rate:g} Hz)'),
        ('received', f'{len(images)} frames{_rate([a for _, a in images])}, in another process '
                     'over DDS'),
        ('paired', f'{paired} images with the camera_info of the very same stamp'),
    ]
    names = {'render': 'rendering', 'camera': 'camera model', 'deliver': 'fill and publish'}
    for part, name in names.items():
        values = [f.durations[part] * 1e9 for f in frames if part in f.durations]
        rows.append((name, _spread(values)))
    rows += [('transport', _spread(transport) + ', after publish returned (below 0: before)'),
             ('latency', _spread(latency) + ', shutter opens to received')]
    return '\n'.join(f'  {name:<17} {text}' for name, text in rows)


def write_pictures(output: Path, camera: str, simulator: Simulator, *, rate: float) -> None:
    """Make preview.png and sim.mp4 in ``output`` from the bag there."""
    bag, topic = output / 'sim_bag', f'/{camera}/image_raw'
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        count = sum(c.msgcount for c in reader.connections if c.topic == topic)
        if not count:
            raise InputError(f'no image arrived on {topic}; drive longer, or lower --rate.')
        odometry = np.array([_odometry(m) for m in _messages(reader, '/odom')]).reshape(-1, 4)
        chosen = set(np.linspace(0, count - 1, _TILES).round().astype(int).tolist())
        kept = []

        def frames() -> Iterator[np.ndarray]:
            for index, message in enumerate(_messages(reader, topic)):
                pixels = _rgb8(message)
                if index in chosen:
                    kept.append((_seconds(message), pixels))
                yield pixels
        write_video(output / 'sim.mp4', frames(), rate=rate)
    write_png(output / 'preview.png', _sheet(kept, odometry, camera, simulator))


def _sheet(frames: list[tuple[float, np.ndarray]], odometry: np.ndarray, camera: str,
           simulator: Simulator) -> np.ndarray:
    height, width = frames[0][1].shape[:2]
    start, tiles, places = frames[0][0], [], []
    for number, (stamp, pixels) in enumerate(frames, 1):
        caption = f'{number}   {stamp - start:.2f} s'
        if len(odometry):
            places.append(int(np.abs(odometry[:, 0] - stamp).argmin()))
            caption += f'   {odometry[places[-1], 3]:.1f} m/s'
        tiles.append((pixels, caption))
    track = odometry[:, 1:3]
    tiles.append((track_map(track, _marks(simulator.world.config), size=(height, width),
                            times=places), 'the way the vehicle took, from above'))
    model = simulator.cameras[camera]
    settings = model.settings
    title = (f'{camera}  {width}x{height}   {float(settings.focal_length) * 1e3:.2f} mm  '
             f'f/{float(settings.f_number):g}  {float(settings.exposure_time) * 1e3:g} ms  '
             f'ISO {float(settings.iso):g}  focus {float(settings.focus_distance):g} m')
    return contact_sheet(tiles, title=title)


def _marks(scene: SceneConfig) -> list[tuple[float, float, tuple[int, int, int]]]:
    return ([(*c.xy, _CONE_COLORS[c.color]) for c in scene.cones]
            + [(*b.xyz[:2], (90, 90, 90)) for b in scene.boards])


def _rgb8(message: object) -> np.ndarray:
    picture = decode_message(message)
    pixels = picture.rgb()
    if pixels.dtype != np.uint8:
        pixels = (picture.unit() * 255 + 0.5).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, 2)
    return pixels


def _messages(reader: AnyReader, topic: str) -> Iterator[object]:
    connections = [c for c in reader.connections if c.topic == topic]
    for connection, _, raw in reader.messages(connections=connections) if connections else ():
        yield reader.deserialize(raw, connection.msgtype)


def _seconds(message: object) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def _odometry(message: object) -> tuple[float, float, float, float]:
    place, speed = message.pose.pose.position, message.twist.twist.linear
    return _seconds(message), place.x, place.y, float(np.hypot(speed.x, speed.y))


def _rate(times: list[int]) -> str:
    if len(times) < 3:
        return ''
    gaps = np.diff(np.array(times)) * 1e-9
    return f', {1 / gaps.mean():.1f} Hz, jitter {1e3 * gaps.std():.1f} ms'


def _spread(values: np.ndarray | list[float]) -> str:
    if not len(values):
        return 'not measured'
    median, high = np.percentile(np.asarray(values) * 1e-6, (50, 95))
    return f'{median:.1f} ms median, {high:.1f} ms at 95 %'
