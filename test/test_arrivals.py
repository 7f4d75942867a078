"""A subscriber measures rate, jitter and missing frames; the node's own diagnostics agree."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from ros_support import (  # noqa: E402
    domain,
    environment,
    listening,
    start_node,
    stop_node,
    write_inputs,
)

from diffphyscam_ros.nodes.arrivals import figures  # noqa: E402


def test_missing_frames_are_gaps_in_the_stamps():
    """30 Hz, two frames lost apart and three in a row; arrival jitters by a known spread."""
    generator = np.random.default_rng(1)
    numbers = [n for n in range(600) if n not in (50, 90, 300, 301, 302)]
    period = 1e9 / 30
    late = generator.normal(0.0, 2e6, len(numbers))
    arrivals = [(round(n * period), round(5e6 + n * period + e))
                for n, e in zip(numbers, late, strict=True)]
    found = figures(arrivals)
    assert found['frames received'] == 595 and found['frames missing'] == 5
    assert found['out of order'] == 0
    # 594 gaps over 599 periods; a gap's spread is that of two arrivals, and of the lost frames.
    assert found['rate [Hz]'] == pytest.approx(30 * 594 / 599, rel=1e-3)
    steps = np.diff(numbers) * period
    expected = np.hypot(np.sqrt(2) * 2e6, steps.std()) * 1e-6
    assert found['jitter [ms]'] == pytest.approx(expected, rel=0.1)
    assert figures([]) == {'frames received': 0}


def test_the_subscribers_count_agrees_with_the_nodes(tmp_path):
    """Frames that the camera skipped are frames that the subscriber misses."""
    domain_id = domain()
    node = start_node({**write_inputs(tmp_path), 'frame_rate': 30.0}, domain_id)
    recorder = subprocess.Popen(
        [sys.executable, '-m', 'diffphyscam_ros.nodes.recorder', '--topic', 'camera/image_raw',
         'sensor_msgs/msg/Image'], env=environment(domain_id), stdout=subprocess.PIPE, text=True)
    said: dict[str, list] = {'camera': [], 'recorder: /camera/image_raw': []}
    try:
        with listening(domain_id) as here:
            heard = here.subscribe(DiagnosticArray, '/diagnostics')

            def enough():
                while heard:
                    for status in heard.pop(0).status:
                        if status.name in said:
                            said[status.name].append({v.key: v.value for v in status.values})
                return all(any('jitter [ms]' in s for s in said[name]) for name in said)
            here.wait(enough, 180)
            said['camera'].clear()         # what it says next counts what the recorder has told
            here.wait(enough, 60)
    finally:
        recorder.kill()
        recorder.wait()
        stop_node(node)
    by_recorder = next(s for s in said['recorder: /camera/image_raw'] if 'jitter [ms]' in s)
    by_camera = next(s for s in reversed(said['camera']) if 'jitter [ms]' in s)
    assert {'frame rate [Hz]', 'frames dropped', 'render time [ms]'} <= by_camera.keys()
    assert float(by_recorder['rate [Hz]']) > 0 and by_recorder['out of order'] == '0'
    # The recorder's first account is older than what the camera said after it.
    delivered = int(by_camera['frames delivered'])
    assert 0 < int(by_recorder['frames received']) <= delivered + 1
