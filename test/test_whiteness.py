"""The normal law that the printed pattern's closed form looks up."""

import numpy as np
from scipy.special import ndtr

from diffphyscam_ros.calibrate.whiteness import _gaussian, _TABLE


def test_the_table_gives_density_and_distribution():
    """Taylor to the third order, half a step of 1/64 away: (1/128)^4 / 24 x 3 phi < 1e-10."""
    places = np.r_[np.linspace(-9, 9, 20011), -8.0, 8.0, np.inf, -np.inf]
    found = np.array([_gaussian(u, _TABLE) for u in places])
    with np.errstate(over='ignore'):
        density = np.exp(-0.5 * places ** 2) / np.sqrt(2 * np.pi)
    assert np.abs(found[:, 0] - density).max() < 2e-10
    assert np.abs(found[:, 1] - ndtr(places)).max() < 2e-10


def test_no_number_is_not_looked_up():
    """A pixel that sees no board must not read beside the table."""
    assert _gaussian(np.nan, _TABLE) == (0.0, 1.0)
