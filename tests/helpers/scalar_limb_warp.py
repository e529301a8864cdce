"""The limb-wise warp written out pixel by pixel in plain NumPy, for one image at a time.

Affine maps come from three pairs of points, as OpenCV's ``getAffineTransform`` makes them.
"""

from __future__ import annotations

import numpy as np

from augment.pose import body_parts as table
from augment.pose.limb_warp import REACH, SOFT_EDGE_PX

OTHER_SIDE = {2: 5, 3: 6, 4: 7, 5: 2, 6: 3, 7: 4, 8: 11, 9: 12, 10: 13, 11: 8, 12: 9, 13: 10}
THIGHS, SHINS = ((8, 9), (11, 12)), ((9, 10), (12, 13))
UPPER_ARMS, FOREARMS = ((2, 3), (5, 6)), ((3, 4), (6, 7))


def scalar_limb_warp(image, mask, source, target):
    """Return (height, width, 3) pixels times coverage, and the coverage.

    ``image`` is (height, width, 3), ``mask`` (height, width), joints are (18, 2).
    """
    if not _usable(source, target):
        return np.zeros_like(image), np.zeros_like(mask)
    result, coverage = np.zeros_like(image), np.zeros_like(mask)
    behind, behind_coverage = np.zeros_like(image), np.zeros_like(mask)
    least = np.full_like(
        mask, REACH * np.linalg.norm(_middle(source, 8, 11) - _middle(source, 2, 5))
    )
    parts = list(_parts(source, target))
    owner = _owner(parts, mask.shape)
    for place, (from_points, to_points, region) in enumerate(parts):
        if to_points is None:
            continue
        own = mask * (owner == place)
        back = _affine(to_points, from_points)
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                point = back @ (column, row, 1.0)
                away = _away(point, from_points, region)
                if away < least[row, column]:
                    least[row, column] = away
                    behind_coverage[row, column] = _bilinear(own, point)
                    behind[row, column] = _bilinear(image * own[:, :, None], point)
                share = float(np.clip(0.5 - away / SOFT_EDGE_PX, 0, 1))
                if share == 0:
                    continue
                alpha = share * _bilinear(mask, point)
                colour = share * _bilinear(image * mask[:, :, None], point)
                result[row, column] = colour + (1 - alpha) * result[row, column]
                coverage[row, column] = alpha + (1 - alpha) * coverage[row, column]
    result += (1 - coverage[:, :, None]) * behind
    return result, coverage + (1 - coverage) * behind_coverage


def _owner(parts, shape):
    """Which part every pixel of the source is nearest to."""
    away = [
        [
            [_away(np.array((column, row)), points, region) for column in range(shape[1])]
            for row in range(shape[0])
        ]
        for points, _, region in parts
    ]
    return np.argmin(away, axis=0)


def _usable(source, target):
    if any(np.isnan(joints[[2, 5, 8, 11]]).any() for joints in (source, target)):
        return False
    lengths = [np.linalg.norm(_middle(j, 8, 11) - _middle(j, 2, 5)) for j in (source, target)]
    low, high = table.SCALE_LIMITS
    return min(lengths) >= table.MIN_TORSO_PX and low <= lengths[1] / lengths[0] <= high


def _middle(joints, first, second):
    return (joints[first] + joints[second]) / 2


def _beside(vector):
    return np.array([-vector[1], vector[0]])


def _triple(start, end, sideways):
    """Two points of an axis, and one beside its start."""
    axis = end - start
    return np.array([start, end, start + sideways * _beside(axis / np.linalg.norm(axis))])


def _affine(from_points, to_points):
    return np.linalg.solve(np.c_[from_points, np.ones(3)], to_points).T


def _away(point, from_points, region):
    """How far a point of the source lies from the part, below 0 inside."""
    start, end, at_start, at_end, radius = region
    axis = from_points[1] - from_points[0]
    axis = axis / np.linalg.norm(axis)
    along, across = (
        np.dot(point - from_points[0], axis),
        abs(np.dot(point - from_points[0], _beside(axis))),
    )
    limit = np.interp(along, (start, end), (at_start, at_end))
    return np.hypot(max(start - along, along - end, 0), max(across - limit, 0)) - radius


def _bilinear(values, point):
    left, top = int(np.floor(point[0])), int(np.floor(point[1]))
    total = 0.0 * values[0, 0]
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                weight = (1 - abs(point[0] - column)) * (1 - abs(point[1] - row))
                total = total + weight * values[row, column]
    return total


def _parts(source, target):
    spine_s = _middle(source, 8, 11) - _middle(source, 2, 5)
    spine_t = _middle(target, 8, 11) - _middle(target, 2, 5)
    length_s, length_t = np.linalg.norm(spine_s), np.linalg.norm(spine_t)
    width_s, width_t = _width(source) / length_s, _width(target) / length_t
    turned = (
        min(width_s, width_t) > table.MIN_TURNED_WIDTH
        and _handedness(source, spine_s) * _handedness(target, spine_t) < 0
    )
    left_leg_last = _lowest(target, (11, 12, 13)) > _lowest(target, (8, 9, 10))
    geometry = (source, target, length_s, length_t, turned)
    yield from _pair(table.THIGH, THIGHS, left_leg_last, geometry)
    yield from _pair(table.SHIN, SHINS, left_leg_last, geometry)

    sign = -1 if turned else 1
    low, high = table.WIDTH_LIMITS
    wider = min(max(width_t / width_s, low), high)
    unit = spine_s / length_s
    halves = [(source[left] - source[right]) / 2 for left, right in ((5, 2), (11, 8))]
    along = [abs(np.dot(h, unit)) for h in halves]
    aside = [abs(np.dot(h, _beside(unit))) for h in halves]
    yield (
        _triple(_middle(source, 2, 5), _middle(source, 8, 11), sign * length_s),
        _triple(_middle(target, 2, 5), _middle(target, 8, 11), wider * length_t),
        (-along[0], length_s + along[1], *aside, table.TORSO_MARGIN * length_s),
    )

    facing = _facing(target)
    left_arm_last = facing < 0 if facing else target[5, 1] > target[2, 1]
    yield from _pair(table.UPPER_ARM, UPPER_ARMS, left_arm_last, geometry)
    yield from _pair(table.FOREARM, FOREARMS, left_arm_last, geometry)

    neck_s, neck_t = _neck(source), _neck(target)
    sign = -1 if _facing(source) * facing < 0 else 1
    low, high = table.HEAD_CENTRE
    yield (
        _triple(neck_s, neck_s - spine_s, sign * length_s),
        _triple(neck_t, neck_t - spine_t, length_t),
        (low * length_s, high * length_s, 0, 0, table.HEAD_RADIUS * length_s),
    )


def _pair(limb, sides, left_last, geometry):
    source, target, length_s, length_t, turned = geometry
    for first, second in sides if left_last else sides[::-1]:
        own = _bone(source, first, second, length_s)
        other = _bone(source, OTHER_SIDE[first], OTHER_SIDE[second], length_s)
        borrowed = other > 0 and own < table.SHORTENED * other
        bone = other if borrowed else own
        if bone == 0:
            continue
        goal = np.linalg.norm(target[second] - target[first])
        moved = goal >= table.MIN_BONE * length_t
        moved = moved and goal / bone * length_s / length_t <= table.MAX_STRETCH
        a, b = (OTHER_SIDE[first], OTHER_SIDE[second]) if borrowed else (first, second)
        sign = -1 if borrowed != turned else 1
        yield (
            _triple(source[a], source[b], sign * length_s),
            _triple(target[first], target[second], length_t) if moved else None,
            (
                0.0,
                bone * (1 + limb.beyond),
                (limb.start_radius - limb.end_radius) * length_s,
                0.0,
                limb.end_radius * length_s,
            ),
        )


def _bone(joints, first, second, torso):
    """The length of a bone, 0 if it has none."""
    length = np.linalg.norm(joints[second] - joints[first])
    return length if length >= table.MIN_BONE * torso else 0.0


def _width(joints):
    return max(np.linalg.norm(joints[5] - joints[2]), np.linalg.norm(joints[11] - joints[8]))


def _handedness(joints, spine):
    left = joints[5] - joints[2] + joints[11] - joints[8]
    return np.dot(_beside(spine), left)


def _lowest(joints, indices):
    return max((joints[k, 1] for k in indices if not np.isnan(joints[k, 1])), default=-np.inf)


def _neck(joints):
    return _middle(joints, 2, 5) if np.isnan(joints[1]).any() else joints[1]


def _facing(joints):
    return 0.0 if np.isnan(joints[0]).any() else joints[0, 0] - _neck(joints)[0]
