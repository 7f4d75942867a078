"""Files in and out: configuration, images, rosbags, calibrations, twins."""
