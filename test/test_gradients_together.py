"""The four primitives in one chain, in float64: every input's gradient at once is the slope."""

import pytest
from test_nvdiffrast import mesh, SIZE
import torch

from diffphyscam_ros.render import ops

F64 = torch.float64
VIEWS = 2


def leaves() -> dict[str, torch.Tensor]:
    """All that the chain differentiates; mip levels are given, not made from the base."""
    pos, _, attr, tex = (t.double() if t.is_floating_point() else t for t in mesh(1))
    g = torch.Generator().manual_seed(4)
    mips = [torch.rand(1, 16 >> k, 32 >> k, 3, generator=g, dtype=F64) for k in range(5)]
    return {'pos': pos, 'attr': attr, 'tex': tex, **{f'mip{k}': m for k, m in enumerate(mips)},
            'uv': 0.1 * torch.rand(VIEWS, *SIZE, 2, generator=g, dtype=F64),
            'uv_da': 0.02 * torch.randn(VIEWS, *SIZE, 4, generator=g, dtype=F64),
            'bias': 4.0 * torch.rand(VIEWS, *SIZE, generator=g, dtype=F64)}


def loss(x: dict[str, torch.Tensor], tri: torch.Tensor, weights: list[torch.Tensor]
         ) -> torch.Tensor:
    rast, rast_db = ops.rasterize(x['pos'], tri, SIZE)
    values, uv_da = ops.interpolate(x['attr'], rast, tri, rast_db=rast_db, diff_attrs=[0, 1])
    color = ops.texture(x['tex'], values[..., :2] + x['uv'], uv_da=uv_da + x['uv_da'],
                        mip_level_bias=x['bias'], mip=[x[f'mip{k}'] for k in range(5)])
    color = color * values[..., 2:] * (rast[..., 3:] > 0)
    image = ops.antialias(color, rast, x['pos'], tri)
    return (image * weights[0]).sum() + (rast[..., :3] * weights[1]).sum()


@pytest.mark.parametrize('subject', [*leaves(), 'all together'])
def test_chain_against_central_differences(subject: str) -> None:
    """
    Weights vanish near triangles' edges inside, where the step could change the triangle seen.

    Rounding: 1e-15 of a loss of 1e3 over a step of 1e-7 is 1e-5 absolute.
    """
    start, tri = leaves(), mesh(1)[1]
    rast = ops.rasterize(start['pos'], tri, SIZE)[0]
    u, v = rast[..., :1], rast[..., 1:2]
    inside = ((u > 1e-2) & (v > 1e-2) & (u + v < 1 - 1e-2)).double()
    wide = -torch.nn.functional.max_pool2d(
        -(inside + (rast[..., 3:] == 0)).permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(VIEWS, *SIZE, 3, dtype=F64, generator=g) * w for w in (wide, inside)]
    chosen = list(start) if subject == 'all together' else [subject]
    asked = {n: t.clone().requires_grad_(n in chosen) for n, t in start.items()}
    gradients = torch.autograd.grad(loss(asked, tri, weights), [asked[n] for n in chosen])
    scale = {'pos': 0.05, 'uv': 0.02, 'uv_da': 0.02}
    moves = {n: scale.get(n, 1.0) * torch.randn(start[n].shape, dtype=F64, generator=g)
             for n in chosen}
    predicted = float(sum((gradient * moves[n]).sum()
                          for n, gradient in zip(chosen, gradients, strict=True)))
    step, ends = 1e-7, []
    for sign in (1, -1):
        moved = {n: t + sign * step * moves[n] if n in chosen else t for n, t in start.items()}
        ends.append(float(loss(moved, tri, weights)))
    assert abs(predicted) > 1e-2
    assert predicted == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-4)
