"""From scene to radiance: the rasterisation contract, its backends, shading."""
