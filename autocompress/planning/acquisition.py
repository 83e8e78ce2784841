"""How much a new point would add to a front: non-dominated points, free boxes, gains of hypervolume.

All objectives are minimized, one to three of them. The space below the reference point that no point of the front
dominates is cut into disjoint boxes once; the gain of any number of new points is then a sum over boxes, which makes
the expected gain over posterior draws (Emmerich et al. 2006; Yang et al. 2019, section 4) a mean of plain sums.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autocompress.errors import StudyError
from autocompress.planning.problem import Floats

_PRODUCTS_AT_ONCE = 1 << 17  # points times boxes held at once: 1 MB a temporary array, which stays in the cache


def pareto(points: Floats) -> npt.NDArray[np.bool_]:
    """Which points no other dominates.

    Takes the lexicographically first of the remaining points, which none of them can dominate, and removes all that
    are nowhere smaller than it (Kung et al. 1975, section 2, without the recursion).

    Args:
        points: Shape (n, objectives), to be minimized.

    Returns:
        Shape (n,). Of equal points the first is a member; points that are not finite never are.

    >>> pareto(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0]])).tolist()
    [True, True, False, False]
    """
    members = np.zeros(len(points), np.bool_)
    left = np.flatnonzero(np.isfinite(points).all(axis=1))
    left = left[np.lexsort(points[left].T[::-1])]
    while len(left):
        first = left[0]
        members[first] = True
        left = left[(points[left] < points[first]).any(axis=1)]
    return members


def boxes(points: Floats, reference: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Disjoint boxes that fill the space below `reference` that no point dominates.

    With three objectives by a sweep along the last one (Lacour et al. 2017 and Yang et al. 2019 reach the same number).

    Args:
        points: Shape (n, objectives), to be minimized; any points, also dominated or equal ones, or none. A point that
            does not lie below `reference` in every objective takes nothing away, nor does one that is not finite.
        reference: Upper end of what counts, one number an objective; 1 to 3 objectives.

    Returns:
        Lower and upper corners, each of shape (boxes, objectives): at most n + 1 boxes for two objectives and 2 n + 1
        for three. Lower ends may be minus infinity, upper ends are finite.

    Raises:
        StudyError: There are not one to three objectives, or points and reference differ in their number.
    """
    end = np.asarray(reference, np.float64)
    if not 1 <= len(end) <= 3 or (np.size(points) and np.shape(points)[-1] != len(end)):
        raise StudyError(f"a front has 1 to 3 objectives, but points are {np.shape(points)} and reference {end.shape}")
    given = np.asarray(points, np.float64).reshape(-1, len(end))
    inside = given[(given < end).all(axis=1)]
    front = inside[pareto(inside)]
    if len(end) == 1:
        return np.full((1, 1), -np.inf), np.append(front.ravel(), end)[:1].reshape(1, 1)
    return _strips(front, end) if len(end) == 2 else _sweep(front, end)


def _strips(front: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Boxes of two objectives: upright strips between neighbours, each below the point on its left."""
    front = front[np.argsort(front[:, 0])]
    left = np.append(-np.inf, front[:, 0])
    right = np.append(front[:, 0], end[0])
    top = np.append(end[1], front[:, 1])
    return np.column_stack([left, np.full(len(left), -np.inf)]), np.column_stack([right, top])


class _Strip(NamedTuple):
    """What is free between two first coordinates, below a second one, from a third one upwards."""

    left: float
    right: float
    top: float
    start: float


def _sweep(front: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Boxes of three objectives: the strips of the first two, each as long as the third leaves it unchanged."""
    open_strips = [_Strip(-np.inf, end[0], end[1], -np.inf)]
    closed: list[tuple[_Strip, float]] = []
    for x, y, z in front[np.argsort(front[:, 2], kind="stable")].tolist():
        open_strips, cut = _insert(open_strips, x, y, z)
        closed += [(strip, z) for strip in cut]
    closed += [(strip, float(end[2])) for strip in open_strips]
    lower = np.array([(s.left, -np.inf, s.start) for s, _ in closed])
    upper = np.array([(s.right, s.top, z) for s, z in closed])
    filled = (lower < upper).all(axis=1)
    return lower[filled], upper[filled]


def _insert(strips: list[_Strip], x: float, y: float, z: float) -> tuple[list[_Strip], list[_Strip]]:
    """Strips that are free above `z`, where (x, y) dominates from now on, and those that end at `z`."""
    kept = [s for s in strips if s.right <= x or s.top <= y]
    cut = [s for s in strips if s.right > x and s.top > y]
    if not cut:
        return strips, []
    first = cut[0]
    if first.left < x:  # what is left of the point goes on as it was
        kept.append(first._replace(right=x))
        cut[0] = first._replace(left=x)
    return sorted([*kept, _Strip(x, cut[-1].right, y, z)]), cut


def gains(points: Floats, lower: Floats, upper: Floats) -> Floats:
    """Hypervolume that each point would add, by itself, to the front that `boxes` was given.

    Args:
        points: Shape (..., objectives), to be minimized.
        lower: Lower corners from `boxes`, shape (boxes, objectives).
        upper: Upper corners, same shape.

    Returns:
        Shape (...), >= 0; 0 for a point that is dominated, beyond the reference or not finite.

    >>> lower, upper = boxes(np.array([[0.0, 1.0], [1.0, 0.0]]), (2.0, 2.0))
    >>> gains(np.array([[0.5, 0.5], [1.0, 1.0]]), lower, upper).tolist()
    [0.25, 0.0]
    """
    flat = np.asarray(points, np.float64).reshape(-1, lower.shape[1])
    flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, np.inf)
    step = max(1, _PRODUCTS_AT_ONCE // max(1, len(lower)))
    parts = [_volumes(flat[i : i + step], lower, upper) for i in range(0, len(flat), step)]
    found: Floats = np.concatenate(parts) if parts else np.zeros(0)
    return found.reshape(np.shape(points)[:-1])


def _volumes(points: Floats, lower: Floats, upper: Floats) -> Floats:
    """Volume of each point's part of the boxes, shape (n,)."""
    volume = np.ones((len(points), len(lower)))
    for x, low, high in zip(points.T, lower.T, upper.T, strict=True):
        side = np.maximum(x[:, None], low)
        np.subtract(high, side, out=side)
        volume *= np.maximum(side, 0.0, out=side)
    summed: Floats = volume.sum(axis=1)
    return summed


def spread_subset(
    points: Floats, n: int, reference: Sequence[float] | Floats, front: Floats | None = None
) -> npt.NDArray[np.int64]:
    """A few points that together have almost the hypervolume of all, greedily.

    Each time the point that adds most (greedy hypervolume subset selection, Guerreiro et al. 2016); it reaches at least
    1 - 1/e of the best subset's hypervolume, since gains only fall as the subset grows (Nemhauser et al. 1978).

    Args:
        points: Shape (candidates, objectives), to be minimized.
        n: Most points to take, >= 0.
        reference: As in `boxes`.
        front: Points that are there already, shape (m, objectives), for gains beyond them; none by default.

    Returns:
        Indices, the most valuable first, of equal ones the lower; fewer than `n` where no other point adds anything.

    Raises:
        StudyError: As `boxes`.
    """
    taken: list[int] = []
    known = np.empty((0, len(reference))) if front is None else front
    while len(taken) < n and len(points):
        added = gains(points, *boxes(np.concatenate([known, points[taken]]), reference))
        best = int(added.argmax())
        if added[best] <= 0.0:
            break
        taken.append(best)
    return np.array(taken, np.int64)
