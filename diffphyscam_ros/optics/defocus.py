"""
Thin-lens defocus: a scatter-correct, depth-ordered blur that is differentiable in everything.

Circle of confusion: c = f^2 |d - U| / (N C d (U - f)) [px], e.g. Potmesil and Chakravarty,
"Synthetic image generation with a lens and aperture camera model", 1982, eq. 6.
"""

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics import defocus_cpu, defocus_torch
from diffphyscam_ros.optics.defocus_hidden import find_hidden, hidden_layer
from diffphyscam_ros.optics.psf import MAX_DIAMETER

PSFS = ('disc', 'gaussian')


def signed_diameter(depth: Tensor, *, focal_length, f_number, focus_distance, pixel_pitch,
                    gain=1.0) -> Tensor:
    """
    Circle of confusion [px]: negative in front of the focus, positive behind it.

    Every length in [m]; ``depth`` may be +inf. Parameters broadcast against ``depth``.
    """
    infinity = gain * focal_length ** 2 / (f_number * pixel_pitch
                                           * (focus_distance - focal_length))
    # nearer than a micrometre the circle is far beyond any limit, and 1 / depth^2 overflows
    return infinity * (1 - focus_distance / depth.clamp_min(1e-6))


def defocus(radiance: Tensor, depth: Tensor, *, focal_length, f_number, focus_distance,
            pixel_pitch, gain=1.0, dead_zone=0.0, psf: str = 'disc') -> Tensor:
    """
    Blur an all-in-focus image (*batch, H, W, C) as a thin lens would; linear in radiance.

    Gradients reach the radiance, the depth and every parameter. A parameter is a number or a
    tensor, scalar or (*batch,).

    :param depth: (*batch, H, W) [m] along the optical axis; +inf is the sky.
    :param focal_length: f [m].
    :param f_number: N [1].
    :param focus_distance: U [m], greater than f.
    :param pixel_pitch: C [m].
    :param gain: a [1] multiplies the circle of confusion.
    :param dead_zone: b [px]; a circle no wider than this does not blur, a wider one blurs by
        sqrt(c^2 - b^2), which is continuous and soon indistinguishable from c.
    :param psf: 'disc', or 'gaussian' of the same second moment (sigma = c / 4).
    """
    if psf not in PSFS:
        raise InputError(f'psf is {psf!r}; pass one of {", ".join(PSFS)}.')
    if radiance.dim() < 3 or depth.shape != radiance.shape[:-1]:
        raise InputError(f'radiance has shape {tuple(radiance.shape)} and depth '
                         f'{tuple(depth.shape)}; pass (*batch, H, W, C) and (*batch, H, W).')
    if not radiance.is_floating_point() or depth.dtype != radiance.dtype:
        raise InputError(f'radiance is {radiance.dtype} and depth {depth.dtype}; pass both as '
                         'float32 or both as float64.')
    batch = depth.shape[:-2]

    def parameter(name, value, low=0.0, inclusive=False):
        value = torch.as_tensor(value, dtype=depth.dtype, device=depth.device)
        if value.dim() and value.shape != batch:
            raise InputError(f'{name} has shape {tuple(value.shape)}; pass a number or one value '
                             f'per image, shape {tuple(batch)}.')
        legal = torch.isfinite(value) & ((value >= low) if inclusive else (value > low))
        if not bool(legal.all()):
            raise InputError(f'{name} is {value.tolist()}; pass a finite number '
                             f'{"of at least" if inclusive else "greater than"} {low:g}.')
        return value.reshape(*value.shape, 1, 1)

    f = parameter('focal_length', focal_length)
    N = parameter('f_number', f_number)
    U = parameter('focus_distance', focus_distance)
    C = parameter('pixel_pitch', pixel_pitch)
    a = parameter('gain', gain, inclusive=True)
    b = parameter('dead_zone', dead_zone, inclusive=True)
    if not bool((U > f).all()):
        raise InputError('focus_distance is not greater than focal_length; a lens focuses only '
                         'beyond its focal length, so pass focus_distance > focal_length [m].')
    if not bool((depth > 0).all()):
        raise InputError('depth has values that are not positive; pass metres along the optical '
                         'axis, +inf where there is nothing.')
    size = radiance.shape[-3:]
    count = batch.numel()
    flat = [p.expand(*batch, 1, 1).reshape(count) for p in (f, N, U, C, a, b)]
    images = [_defocus_one(radiance.reshape(count, *size)[i], depth.reshape(count, *size[:2])[i],
                           *(p[i] for p in flat), psf) for i in range(count)]
    return torch.stack(images).reshape(radiance.shape)


def _defocus_one(radiance, depth, f, N, U, C, a, b, psf):
    def blur(d):
        """Second moment [px^2] and signed radius [px]."""
        c = signed_diameter(d, focal_length=f, f_number=N, focus_distance=U, pixel_pitch=C,
                            gain=a).clamp(-MAX_DIAMETER, MAX_DIAMETER)
        moment = (c * c - b * b).clamp_min(0) / 16
        return moment, torch.where(moment > 0, c, 0) / 2

    moment, radius = blur(depth)
    front, behind = find_hidden(radius.detach())
    pair_moment, pair_radius = blur(depth.reshape(-1)[torch.stack([front, behind])])
    color, weight = hidden_layer(radiance, pair_radius, front, behind)
    hidden = (front, color, weight, pair_moment[1], _side(pair_radius[1]))
    scatter = (defocus_cpu if radiance.device.type == 'cpu' else defocus_torch).scatter
    return scatter(radiance, moment, _side(radius), hidden, psf)


def _side(radius: Tensor) -> Tensor:
    return torch.where(radius.detach() < 0, -1, 1)
