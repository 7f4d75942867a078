"""Irradiance to digital numbers: exposure, noise, mosaic, response, quantisation (EMVA 1288)."""
