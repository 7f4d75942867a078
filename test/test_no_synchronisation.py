"""
A frame of tensor operations never looks at a value: no stall on CUDA, and a graph can replay it.

On a CPU, a dispatch mode sees every operation that would read a value back, choose a size by
values or upload a Python number, outside of the four primitives; the one thing that CUDA does
otherwise, to shade every pixel, is forced.
"""

from dataclasses import replace
import importlib.util
from pathlib import Path
import sys

import pytest
from test_renderer_gradients import scene_and_view, SIZE
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffphyscam_ros.render import differentiable, ops
from diffphyscam_ros.render.tensors import TensorRenderer

_READS = {'_local_scalar_dense', 'nonzero', 'masked_select', 'unique', '_unique2', 'unique_dim',
          'is_nonzero', 'equal', 'lift_fresh', 'linalg_inv', 'repeat_interleave.Tensor'}
OUTPUTS = {'radiance', 'depth', 'normal_world', 'instance'}


def within_the_cpu_backend() -> bool:
    """Whether a primitive's compiled loop is at work, whose place nvdiffrast takes on CUDA."""
    frame = sys._getframe(1)
    while frame is not None:
        if Path(frame.f_code.co_filename).parent.name == 'cpu':
            return True
        frame = frame.f_back
    return False


class NoReads(TorchDispatchMode):
    """Refuse operations that wait for the device or that a CUDA graph cannot hold."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        if within_the_cpu_backend():
            return func(*args, **(kwargs or {}))
        if name in _READS or f'{name}.{func._overloadname}' in _READS:
            raise AssertionError(f'{name} within a frame')
        if name in ('index', 'index_put', 'index_put_') and any(
                i is not None and i.dtype == torch.bool for i in args[1]):
            raise AssertionError(f'{name} by a mask within a frame')
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_cuda(monkeypatch) -> None:
    monkeypatch.setattr(differentiable, 'shades_everywhere', lambda device: True)
    # The checks that ops leaves out for CUDA tensors.
    monkeypatch.setattr(ops, 'check_triangles', lambda tri, vertices: None)


def test_the_mode_notices_reads() -> None:
    x = torch.arange(4.0)
    for read in (lambda: float(x[0]), lambda: x[x > 1], lambda: torch.nonzero(x),
                 lambda: torch.tensor([1.0]), lambda: bool((x > 1).any())):
        with NoReads(), pytest.raises(AssertionError, match='within a frame'):
            read()


def test_no_reads_within_a_frame(as_on_cuda) -> None:
    scene, view = scene_and_view()
    renderer = TensorRenderer(scene, torch.device('cpu'), 'cpu')
    before = renderer.render(view, scene, OUTPUTS)          # takes the environment in
    with NoReads():
        frame = renderer.render(view, scene, OUTPUTS)
    assert torch.equal(frame['radiance'], before['radiance'])


def test_shadows_are_those_of_the_host(monkeypatch) -> None:
    # A thing over the patch throws a shadow; maps planned on the device must put it where the
    # host's do. They count the same casters, so only rounding at a texel's edge may differ.
    scene, view = scene_and_view()
    over = scene.T_world_instance.clone()
    over[0, :3, :3] *= 0.2
    over[0, :3, 3] = torch.tensor([-0.1, 0.05, 0.4])
    scene = replace(scene, instances=(*scene.instances, scene.instances[0]),
                    T_world_instance=torch.cat([scene.T_world_instance, over]))
    sunless = replace(scene, sun=None)
    pictures = {}
    for everywhere in (False, True):
        monkeypatch.setattr(differentiable, 'shades_everywhere', lambda device, e=everywhere: e)
        renderer = TensorRenderer(scene, torch.device('cpu'), 'cpu')
        pictures[everywhere] = renderer.render(view, scene, OUTPUTS)['radiance']
    dark = TensorRenderer(sunless, torch.device('cpu'), 'cpu').render(view, sunless, OUTPUTS)
    shaded = (pictures[False] - dark['radiance']).abs().sum(-1) < 1e-6
    assert 0.02 < shaded.double().mean() < 0.5
    differs = (pictures[True] - pictures[False]).abs().sum(-1) > 1e-3
    assert differs.double().mean() < 0.01


def test_no_reads_with_gradients(as_on_cuda) -> None:
    scene, view = scene_and_view()
    color = scene.materials[0].base_color.clone().requires_grad_(True)
    scene = replace(scene, materials=(replace(scene.materials[0], base_color=color),))
    pose = view.T_camera_world.clone().requires_grad_(True)
    view = replace(view, T_camera_world=pose)
    renderer = TensorRenderer(scene, torch.device('cpu'), 'cpu')
    renderer.render(view, scene, OUTPUTS)
    with NoReads():
        loss = renderer.render(view, scene, OUTPUTS)['radiance'].square().sum()
        gradients = torch.autograd.grad(loss, (color, pose))
    assert all(float(g.abs().sum()) > 0 for g in gradients)


def to_cuda(value):
    """Nested dataclasses and tuples with their tensors as float32 on the device."""
    if isinstance(value, torch.Tensor):
        return value.cuda().float() if value.is_floating_point() else value.cuda()
    if isinstance(value, tuple):
        return tuple(to_cuda(v) for v in value)
    if hasattr(value, '__dataclass_fields__'):
        return replace(value, **{name: to_cuda(getattr(value, name))
                                 for name in value.__dataclass_fields__})
    return value


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec('nvdiffrast') is None,
    reason='needs a CUDA device and nvdiffrast')
def test_a_cuda_graph_replays_another_pose() -> None:
    """Captured once, replayed with the pose moved in place: the picture drawn anew, bit by bit."""
    scene, view = to_cuda(scene_and_view())
    renderer = TensorRenderer(scene, torch.device('cuda'), 'auto')
    pose = view.T_camera_world.clone()
    moving = replace(view, T_camera_world=pose)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            renderer.render(moving, scene, OUTPUTS)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        frame = renderer.render(moving, scene, OUTPUTS)
    pose[:3, 3] += torch.tensor([0.05, -0.02, 0.1], device='cuda')
    graph.replay()
    with torch.no_grad():
        expected = renderer.render(moving, scene, OUTPUTS)
    assert frame['radiance'].shape == (*SIZE, 3)
    for name in OUTPUTS:
        assert torch.equal(frame[name], expected[name]), name
