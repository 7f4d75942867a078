"""
The surface: Lambert under GGX, in arithmetic that numba compiles and torch differentiates.

Metallic-roughness model of glTF 2.0 (appendix B) with the height-correlated Smith term of
Heitz, "Understanding the masking-shadowing function", JCGT 2014, eq. 99, and Schlick's Fresnel.
Constants are ``np.float32`` so that the compiled loops stay in single precision.
"""

import numpy as np

from diffphyscam_ros.kernels import inline

ONE = np.float32(1)
HALF = np.float32(0.5)
TWO, _SIXTEEN = np.float32(2), np.float32(16)
PI = np.float32(np.pi)
#: Reflectance of a dielectric at normal incidence (index of refraction 1.5).
DIELECTRIC_F0 = np.float32(0.04)
#: Least GGX alpha (perceptual roughness 0.045): narrower lobes alias under a point sun.
MIN_ALPHA = np.float32(0.002)
#: Cosines are kept above this: the Smith term divides by them.
MIN_COSINE = np.float32(1e-3)


def ggx_distribution(n_h, alpha):
    """Density of microfacet normals D [1/sr]."""
    a2 = alpha * alpha
    d = n_h * n_h * (a2 - ONE) + ONE
    return a2 / (PI * d * d)


def smith_visibility(n_l, n_v, alpha):
    """Height-correlated masking-shadowing over 4 n.l n.v."""
    a2 = alpha * alpha
    lambda_v = n_l * (n_v * n_v * (ONE - a2) + a2) ** HALF
    lambda_l = n_v * (n_l * n_l * (ONE - a2) + a2) ** HALF
    return HALF / (lambda_v + lambda_l)


def schlick_weight(v_h):
    """(1 - v.h)^5, what Schlick's Fresnel blends towards white by."""
    m = ONE - v_h
    m2 = m * m
    return m2 * m2 * m


def specular_f0(base_color, metallic, specular):
    """Reflectance at normal incidence of one channel."""
    return DIELECTRIC_F0 * specular * (ONE - metallic) + base_color * metallic


def specular_f90(metallic, specular):
    """Reflectance at grazing incidence: 1, or less where ``specular`` mutes a dielectric."""
    return specular * (ONE - metallic) + metallic


def diffuse_color(base_color, metallic):
    """Albedo of the Lambert part of one channel."""
    return base_color * (ONE - metallic)


def specular_occlusion(occlusion, n_v, roughness):
    """
    Share of a reflection that arrives where the share ``occlusion`` of diffuse light does.

    Lagarde and de Rousiers, "Moving Frostbite to physically based rendering", SIGGRAPH 2014
    course, listing 26; the caller clamps it to [0, 1]. An approximation by eye, for one number
    does not say in which directions the sky is hidden: a rough lobe loses what diffuse light
    does, a narrow one that leaves steeply loses less; 0 stays 0 and 1 stays 1.
    """
    exponent = TWO ** (-_SIXTEEN * roughness * roughness - ONE)
    return (n_v + occlusion) ** exponent - ONE + occlusion


def band_correction(bx, by, bz, xx, yy, xy, xz, yz, nx, ny, nz, tx, ty, tz, k1, k2, k3, k4, k5):
    """
    What a filtered map lacks of one colour's reflection, see ``environment.lobe_table``.

    :param bx, ...: b and Q of that colour; nx, ...: normal; tx, ...: the reflected direction's
        part along the surface; k1 to k5: channels 2 to 6 of the table.
    """
    zz = -xx - yy
    qx, qy, qz = xx * nx + xy * ny + xz * nz, xy * nx + yy * ny + yz * nz, \
        xz * nx + yz * ny + zz * nz
    px, py, pz = xx * tx + xy * ty + xz * tz, xy * tx + yy * ty + yz * tz, \
        xz * tx + yz * ty + zz * tz
    return (k1 * (bx * tx + by * ty + bz * tz) + k2 * (bx * nx + by * ny + bz * nz)
            + k3 * (px * tx + py * ty + pz * tz) + k4 * (qx * nx + qy * ny + qz * nz)
            + k5 * (qx * tx + qy * ty + qz * tz))


band_correction_nb = inline(band_correction)
ggx_distribution_nb = inline(ggx_distribution)
smith_visibility_nb = inline(smith_visibility)
schlick_weight_nb = inline(schlick_weight)
specular_f0_nb = inline(specular_f0)
specular_f90_nb = inline(specular_f90)
specular_occlusion_nb = inline(specular_occlusion)
diffuse_color_nb = inline(diffuse_color)
