"""
A whole frame against PyBullet's TinyRenderer with shadows: same scene, same view, one run.

A frame is everything between two images: the physics steps of 1/30 s, shadows, rendering, all
camera stages, the message filled and published to a subscriber in another process. TinyRenderer
draws its picture with shadows and nothing else. Both take turns, so that whatever else the
machine does slows both; the ratio is that of the medians. Before that, frames run one after
another, as in a running camera: TinyRenderer leaves nothing of ours in the caches. The last column
is processor time, all threads together: it does not depend on what else the machine does.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
import importlib
import os
import random
import resource
import statistics
import subprocess
import sys
import time

import torch

from diffphyscam_ros.geometry import invert
from diffphyscam_ros.picture import Capture
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.tiny import add_textures, tiny_render
from diffphyscam_ros.scene.world import World
from diffphyscam_ros.simulator import camera_named, Simulator

CPU = ' CPU'
TINY = 'TinyRenderer, shadows'
#: Frames one after another, as a running camera has them: nothing clears the caches in between.
ALONE, ALONE_FRAMES = 'one after another', 50
#: Functions that are timed where they are called: (module, name, row of the table).
STAGES = (
    ('diffphyscam_ros.picture', 'Renderer.render', 'render'),
    ('diffphyscam_ros.render.shadow', 'SunShadows.update', 'shadow maps'),
    ('diffphyscam_ros.render.fused', 'transform_vertices', 'vertices'),
    ('diffphyscam_ros.render.fused', 'visibility', 'visibility'),
    ('diffphyscam_ros.render.fused', 'shade', 'shading'),
    ('diffphyscam_ros.render.fused', 'antialias_silhouettes', 'silhouettes'),
    ('diffphyscam_ros.picture', 'PhysicalCamera.sample', 'camera'),
    ('diffphyscam_ros.optics.bend', 'resample.resample_frame', 'distortion, vignetting'),
    ('diffphyscam_ros.camera', 'defocus', 'defocus'),
    ('diffphyscam_ros.camera', 'develop.develop', 'exposure, noise, response'),
)


@contextmanager
def timed_stages(times: dict[str, float]):
    """Add up the seconds spent in each of STAGES; what a later version renamed is left out."""
    undo = []
    for module, path, label in STAGES:
        *owners, name = path.split('.')
        owner = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part, None)
        function = getattr(owner, name, None)
        if function is not None:
            setattr(owner, name, _timed(function, label, times))
            undo.append((owner, name, function))
    try:
        yield
    finally:
        for owner, name, function in undo:
            setattr(owner, name, function)


def _timed(function: Callable, label: str, times: dict[str, float]) -> Callable:
    def wrapper(*args: object, **kwargs: object) -> object:
        watch = Stopwatch()
        try:
            return function(*args, **kwargs)
        finally:
            watch.add(times, label)
    return wrapper


@contextmanager
def publisher():
    """Yield a function that publishes a capture to a subscriber in another process, or None."""
    try:
        import rclpy
    except ImportError:
        yield None
        return
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    from diffphyscam_ros.nodes.options import LiveOptions
    from diffphyscam_ros.nodes.publishers import CameraPublishers
    from diffphyscam_ros.nodes.qos import OverridableNode
    process = subprocess.Popen(
        [sys.executable, '-m', 'diffphyscam_ros.nodes.recorder', '--topic', 'camera/image_raw',
         'sensor_msgs/msg/Image', '--topic', 'camera/camera_info', 'sensor_msgs/msg/CameraInfo'],
        stdout=subprocess.PIPE, text=True)
    rclpy.init()
    try:
        process.stdout.readline()
        node = OverridableNode('benchmark')
        camera = CameraPublishers(node, 'camera', 'camera_optical_frame', lambda stamp: stamp,
                                  LiveOptions)
        while not (camera.image.get_subscription_count() and camera.info.get_subscription_count()):
            rclpy.spin_once(node, timeout_sec=0.1)
        yield camera.publish
    finally:
        rclpy.try_shutdown()
        process.terminate()
        process.wait(10)


class Stopwatch:
    """Wall and processor seconds since the start or the last lap."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add(self, times: dict[str, float], name: str) -> None:
        """Add what has passed to ``times``, processor time under ``name`` + ``CPU``."""
        times[name] += time.perf_counter() - self._wall
        times[name + CPU] += time.process_time() - self._cpu


def one_frame(simulator: Simulator, publish: Callable[[Capture], None] | None,
              rate: float, times: dict[str, float]) -> Capture:
    """Everything between two images; adds to ``times``."""
    whole = Stopwatch()
    watch = Stopwatch()
    for _ in range(round(1 / (rate * simulator.world.time_step))):
        simulator.step()
    watch.add(times, 'physics')
    capture = simulator.capture('camera', outputs=('image',))
    if publish:
        watch = Stopwatch()
        publish(capture)
        watch.add(times, 'message, publish')
    whole.add(times, 'whole frame')
    return capture


def measure(scene: str, model: str, repeats: int, rate: float) -> dict[str, list[float]]:
    """Seconds of every stage, of the whole frame and of TinyRenderer, once per repeat."""
    world = World.load(scene)
    add_textures(world)
    simulator = Simulator(world, {'camera': camera_named(model)}, device='cpu')
    simulator.warm_up()
    simulator.command(1.0, 0.4)
    info = simulator.cameras['camera'].camera_info()
    matrix = torch.tensor(info.k, dtype=torch.float64).reshape(3, 3)
    samples: dict[str, list[float]] = defaultdict(list)
    with publisher() as publish:
        for _ in range(ALONE_FRAMES):
            times: dict[str, float] = defaultdict(float)
            one_frame(simulator, publish, rate, times)
            samples[ALONE].append(times['whole frame'])
            samples[ALONE + CPU].append(times['whole frame' + CPU])
        for repeat in range(repeats + 2):
            times = defaultdict(float)
            with timed_stages(times):
                capture = one_frame(simulator, publish, rate, times)
            view = View(matrix, invert(capture.T_world_optical), (info.height, info.width))
            watch = Stopwatch()
            tiny_render(world, view, shadows=True)
            watch.add(times, TINY)
            if repeat >= 2:                # the first ones still load and settle
                for name, seconds in times.items():
                    samples[name].append(seconds)
    world.close()
    return samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--scene', default='course')
    parser.add_argument('--model', default='default')
    parser.add_argument('--repeats', type=int, default=25)
    parser.add_argument('--rate', type=float, default=30.0, help='[Hz]')
    options = parser.parse_args()
    samples = measure(options.scene, options.model, options.repeats, options.rate)
    print(f'A frame of {options.scene} with camera {options.model}, '
          f'{os.cpu_count()} CPU cores [ms]')
    print(f'  {"stage":<28}{"median":>8}{"best":>8}{"CPU":>8}')
    for name in ('physics', *(s[2] for s in STAGES), 'message, publish', 'whole frame', ALONE,
                 TINY):
        if name not in samples:
            continue
        values = [1e3 * v for v in samples[name]]
        inner = name in {s[2] for s in STAGES} - {'render', 'camera'}
        print(f'  {"  " * inner + name:<28}{statistics.median(values):>8.2f}{min(values):>8.2f}'
              f'{1e3 * statistics.median(samples[name + CPU]):>8.2f}')
    ratios = [statistics.median(samples[TINY + kind]) / statistics.median(samples[
        'whole frame' + kind]) for kind in ('', CPU)]
    print(f'  {1 / statistics.median(samples[ALONE]):.1f} frames per second one after another')
    print(f'  TinyRenderer / whole frame: {ratios[0]:.1f}, in processor time {ratios[1]:.1f}')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f'  peak memory: {peak:.0f} MiB')


if __name__ == '__main__':
    main()
