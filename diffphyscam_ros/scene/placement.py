"""Where the bodies of a PyBullet world stand: one transform for each thing that is drawn."""

import numpy as np

from diffphyscam_ros.scene.client import Client
from diffphyscam_ros.scene.poses import matrices, matrix
from diffphyscam_ros.scene.visual import base_from_com, Visual


def body_matrix(client: Client, body: int) -> np.ndarray:
    """T_world_base (4, 4) float64 of a body; PyBullet itself tells that of the centre of mass."""
    pose = client.getBasePositionAndOrientation(body)
    return matrix(*client.multiplyTransforms(*pose, *base_from_com(client, body)))


class Placement:
    """Transforms of all visuals; only those of bodies that physics moves are asked for again."""

    def __init__(self, client: Client, visuals: list[Visual], moving: list[int]) -> None:
        self._client, self._visuals = client, visuals
        self._T_world_instance = np.tile(np.eye(4, dtype=np.float32), (len(visuals), 1, 1))
        found = {body: [] for body in moving}
        for index, visual in enumerate(visuals):
            if visual.body in found:
                found[visual.body].append((index, visual.link))
        self._jointed, self._free = [], []
        for body, places in found.items():
            links = sorted({link for _, link in places if link >= 0})
            targets = [(i, links.index(k) + 1 if k >= 0 else 0) for i, k in places]
            com = base_from_com(client, body)
            if links:
                self._jointed.append((body, links, com, *zip(*targets, strict=True)))
            else:
                self._free += [(body, com, i) for i, _ in targets]
        self.place_all()

    def place_all(self) -> None:
        """Look again at everything, after something that stands still was moved by hand."""
        for index, visual in enumerate(self._visuals):
            self._T_world_instance[index] = self._link_matrix(visual)

    def now(self) -> np.ndarray:
        """T_world_instance (I, 4, 4) float32, in the order of the visuals."""
        client, poses, index = self._client, [], []
        for body, links, com, where, which in self._jointed:
            base = client.multiplyTransforms(*client.getBasePositionAndOrientation(body), *com)
            states = client.getLinkStates(body, links, computeForwardKinematics=1)
            found = [base, *((s[4], s[5]) for s in states)]
            poses += [found[k] for k in which]
            index += where
        for body, com, where in self._free:
            pose = client.getBasePositionAndOrientation(body)
            poses.append(client.multiplyTransforms(*pose, *com))
            index.append(where)
        if poses:
            flat = np.array([p + q for p, q in poses])
            self._T_world_instance[index] = matrices(flat[:, :3], flat[:, 3:])
        return self._T_world_instance.copy()

    def _link_matrix(self, visual: Visual) -> np.ndarray:
        if visual.link < 0:
            return body_matrix(self._client, visual.body)
        state = self._client.getLinkState(visual.body, visual.link, computeForwardKinematics=1)
        return matrix(state[4], state[5])
