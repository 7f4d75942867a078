"""
Cube maps: from a direction to a face and a point on it, and texels beyond a face's border.

Faces are +x, -x, +y, -y, +z, -z with OpenGL's orientation, as in nvdiffrast. On a face, S and T
in [-1/2, 1/2] are the two minor components over twice the major one, with a sign per face.
"""

import numpy as np

from diffphyscam_ros.kernels import inline

#: Component of the direction that S, T and the division take, per axis.
_AXES = np.array([[2, 1, 0], [0, 2, 1], [0, 1, 2]])
_SIGN_S = np.array([-1, 1, 1, 1, 1, -1])
_SIGN_T = np.array([-1, -1, 1, -1, -1, -1])


def _neighbour_table():
    """
    Where the texel k beyond each side (left, right, top, bottom) of each face really lies.

    A row is (face, code of column, code of row); codes: 0 first, 1 last, 2 k, 3 last - k.
    """
    table = np.zeros((6, 4, 3), np.int64)
    for face in range(6):
        for side in range(4):
            found = []
            for along in (-0.25, 0.25):
                s, t = ((-0.5, along), (0.5, along), (along, -0.5), (along, 0.5))[side]
                axis_s, axis_t, axis_c = _AXES[face // 2]
                direction = np.zeros(3)
                direction[axis_c] = 1 - 2 * (face % 2)
                direction[axis_s], direction[axis_t] = 2 * s * _SIGN_S[face], 2 * t * _SIGN_T[face]
                crossed = axis_s if side < 2 else axis_t
                other = 2 * crossed + (direction[crossed] < 0)
                found.append([_SIGN_S[other] * direction[_AXES[crossed][0]] / 2,
                              _SIGN_T[other] * direction[_AXES[crossed][1]] / 2])
            codes = []
            for low, high in zip(*found, strict=True):
                if low == high:
                    codes.append(int(low > 0))
                else:
                    codes.append(2 if low < high else 3)
            table[face, side] = int(other), *codes
    return table


_NEIGHBOUR = _neighbour_table()


@inline
def cube_face(x, y, z):
    """
    Face that a direction hits and what differentiates the point on it.

    :return: (face, S, T, 1 / (2 |c|), c) with c the major component; face is -1 for directions
        that are zero or not finite.
    """
    ax, ay, az = abs(x), abs(y), abs(z)
    if az > max(ax, ay):
        axis, s, t, c = 2, x, y, z
    elif ay > ax:
        axis, s, t, c = 1, x, z, y
    else:
        axis, s, t, c = 0, z, y, x
    face = 2 * axis + (1 if c < 0 else 0)
    if not (abs(c) > np.float64(1e-30) and ax + ay + az < np.float64(1e30)):
        return -1, np.float64(0), np.float64(0), np.float64(0), np.float64(1)
    k = np.float64(0.5) / abs(c)
    return face, _SIGN_S[face] * s * k, _SIGN_T[face] * t * k, k, c


@inline
def face_axes(face):
    """Give the components for S, T, the division, and the signs of S and T."""
    axis = face // 2
    return _AXES[axis, 0], _AXES[axis, 1], _AXES[axis, 2], _SIGN_S[face], _SIGN_T[face]


@inline
def _coordinate(code, k, size):
    if code == 0:
        return 0
    if code == 1:
        return size - 1
    return k if code == 2 else size - 1 - k


@inline
def cube_texel(face, column, row, size):
    """Index of a texel at most one beyond the border of its face; -1 beyond a corner."""
    outside_column = column < 0 or column >= size
    outside_row = row < 0 or row >= size
    if outside_column and outside_row:
        return -1
    if not (outside_column or outside_row):
        return (face * size + row) * size + column
    if outside_column:
        side, k = (0 if column < 0 else 1), row
    else:
        side, k = (2 if row < 0 else 3), column
    column = _coordinate(_NEIGHBOUR[face, side, 1], k, size)
    row = _coordinate(_NEIGHBOUR[face, side, 2], k, size)
    return (_NEIGHBOUR[face, side, 0] * size + row) * size + column
