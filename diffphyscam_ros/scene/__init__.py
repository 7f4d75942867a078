"""What there is to see: meshes, materials, lights, and the PyBullet world that moves them."""
