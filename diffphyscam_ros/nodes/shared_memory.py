"""
Shared memory that holds whole images, for what a node publishes.

Fast DDS, ROS's default middleware, hands messages to other processes of the machine through a
segment of half a megabyte or less, 64 kB at a time. An image of 640x480 has 0.9 MB: its first
pieces are given up before its last are written, and whoever did not wake up in time asks for them
again. While a subscriber that was killed is still counted as one, such requests are answered so
slowly that images fall silent for everybody, for minutes on busy cores. In a segment of several
images nothing is asked for twice (figures: docs/node.md).

Source: Fast DDS 2.14, "Shared Memory Transport" and "XML profiles".
"""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import tempfile

#: [bytes] Five images of 1280x720 or a cloud of as many points. All of it becomes resident.
SEGMENT = 16 << 20
#: [bytes] A smaller one is no better than the middleware's own.
SMALLEST = 4 << 20
#: The most of what is free; a full one ends processes that write there (a container's has 64 MB).
SHARE = 0.25
FOLDER = Path('/dev/shm')
#: By these a user describes the transports: then nothing is added.
CHOICES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE',
           'FASTDDS_BUILTIN_TRANSPORTS')
#: So does a file of this name in the working directory.
FILES = ('DEFAULT_FASTRTPS_PROFILES.xml', 'DEFAULT_FASTDDS_PROFILES.xml')
#: A transport named here comes before those that ROS and Fast DDS add, and sends in their place.
PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>images</transport_id>
        <type>SHM</type>
        <segment_size>{size}</segment_size>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="diffphyscam" is_default_profile="true">
      <rtps>
        <userTransports><transport_id>images</transport_id></userTransports>
      </rtps>
    </participant>
  </profiles>
</dds>
"""


def segment_size(folder: Path = FOLDER) -> int:
    """Return how large a segment may be [bytes]; 0: leave it to the middleware."""
    if not os.access(folder, os.W_OK) or any(os.environ.get(name) for name in CHOICES):
        return 0
    if any(Path(name).exists() for name in FILES):
        return 0
    size = min(SEGMENT, int(SHARE * shutil.disk_usage(folder).free))
    return size if size >= SMALLEST else 0


@contextmanager
def room_for_images() -> Iterator[None]:
    """
    Let the process's first ROS node, made meanwhile, have a segment that holds images.

    Fast DDS reads its profiles once, from the file that a variable names; no other way leads there
    through ROS. Other middleware does not look at it.
    """
    size = segment_size()
    if not size:
        yield
        return
    with tempfile.NamedTemporaryFile('w', dir=FOLDER, suffix='.xml', encoding='utf-8') as file:
        file.write(PROFILE.format(size=size))
        file.flush()
        names = CHOICES[:2]             # of Fast DDS 2 and 3
        os.environ.update(dict.fromkeys(names, file.name))
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]
