"""Package for ament (colcon build) and for pip alike."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'diffphyscam_ros'
HERE = Path(__file__).resolve().parent
SHARE = f'share/{NAME}'


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """List every file below ``folder`` with the place below share/ where it is installed."""
    folders: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob('*')):
        if path.is_file() and '__pycache__' not in path.parts:
            relative = path.relative_to(HERE)
            folders.setdefault(f'{SHARE}/{relative.parent.as_posix()}', []).append(str(relative))
    return list(folders.items())


setup(
    name=NAME,
    version='0.1.0',
    description='A differentiable physical camera for ROS 2, on a simulated vehicle',
    license='Apache-2.0',
    maintainer='diffphyscam_ros maintainers',
    maintainer_email='maintainers@diffphyscam-ros.invalid',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    python_requires='>=3.10',
    install_requires=[
        'setuptools',
        'imageio-ffmpeg>=0.5',
        'llvmlite>=0.43',
        'matplotlib>=3.6',
        'numba>=0.60',
        # cv_bridge from the ROS wheels takes neither numpy 2.3 nor OpenCV 5.
        'numpy>=1.26,<2.3',
        'opencv-python-headless>=4.8,<5',
        'pillow>=10',
        'pybullet>=3.2.7; python_version < "3.12"',
        # The maintained fork; the original has no wheels for these versions of Python.
        'pybullet-arm64>=3.2.8; python_version >= "3.12"',
        'pycollada>=0.8',
        'PyYAML>=6',
        'rich>=13',
        'rosbags>=0.10',
        'scipy>=1.11',
        'threadpoolctl>=3.1',
        'torch>=2.4',
        'trimesh>=4',
    ],
    extras_require={
        'test': ['pytest>=7', 'ruff'],
        'ros': [
            'cv_bridge',
            'ros-jazzy-diagnostic-msgs',
            'ros-jazzy-geometry-msgs',
            'ros-jazzy-nav-msgs',
            'ros-jazzy-rcl-interfaces',
            'ros-jazzy-rclpy[fastrtps]',
            'ros-jazzy-rosgraph-msgs',
            'ros-jazzy-sensor-msgs',
            'ros-jazzy-std-msgs',
            'ros-jazzy-std-srvs',
        ],
        'cuda': ['diffrp-nvdiffrast>=0.3.3', 'ninja'],
        'mitsuba': ['mitsuba>=3.5'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE, ['package.xml', 'LICENSE']),
        *shared_files('launch'),
        *shared_files('config'),
        *shared_files('urdf'),
    ],
    zip_safe=True,
    entry_points={
        'console_scripts': [
            'diffphyscam = diffphyscam_ros.cli:main',
            'camera_node = diffphyscam_ros.nodes.run_camera:main',
            'sim = diffphyscam_ros.cli:sim',
            'calibrate = diffphyscam_ros.cli:calibrate',
        ],
    },
)
