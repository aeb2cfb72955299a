"""The kernels of `correspondence`, a cheapest matching of pixels that come and go.

Both sides live on the same flat, padded image, so a pixel's possible partners are its neighbours.
A side is three arrays over that image: `active`, `partner` (-1: none) and `price`, the dual
variable of the assignment problem. Two invariants hold between calls of `_insert`.
price[i] + price[j] <= cost[i, j], with equality for partners. price <= outlier, with equality for
pixels without a partner. By linear programming's complementary slackness they prove the optimum.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


class Side(NamedTuple):
    """One of the two maps."""

    active: UInt8
    partner: Int32
    price: Int32


class Graph(NamedTuple):
    """The pairs of pixels within reach of each other, and their costs."""

    offsets: Int64
    """[K]: flat steps to the pixels within reach, nearest first."""
    costs: Int64
    """[K]: costs of pairs that far apart, ascending."""
    outlier: int
    """Cost of a pixel without partner."""


class End(NamedTuple):
    """The end of the cheapest path found so far."""

    length: int
    pixel: int
    """The far pixel; -1 where the source stays without a partner."""
    release: bool
    """True where `pixel` leaves its partner without one; else it had none."""


class Scratch(NamedTuple):
    """The memory of one search. A pixel's entries count where `stamp` is the search's number."""

    number: Int32
    """[1]: number of the search, from 1."""
    stamp: Int32
    length: Int64
    """Length of the shortest path to a far pixel."""
    parent: Int32
    """The near pixel before it."""
    heap: Int32
    place: Int32
    """Place of a pixel in `heap`."""
    scanned: Int32
    """Far pixels in the order they were taken from the heap."""


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _rise(heap: Int32, place: Int32, length: Int64, at: int) -> None:
    """Move the entry at `at` of the binary heap towards the top."""
    node = heap[at]
    while at > 0:
        above = (at - 1) >> 1
        if length[heap[above]] <= length[node]:
            break
        heap[at] = heap[above]
        place[heap[at]] = at
        at = above
    heap[at] = node
    place[node] = at


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _pop(heap: Int32, place: Int32, length: Int64, size: int) -> int:
    """Take the nearest of `size` entries; `size - 1` remain."""
    top = heap[0]
    place[top] = -1
    size -= 1
    if size > 0:
        node = heap[size]
        at = 0
        while True:
            child = 2 * at + 1
            if child >= size:
                break
            if child + 1 < size and length[heap[child + 1]] < length[heap[child]]:
                child += 1
            if length[heap[child]] >= length[node]:
                break
            heap[at] = heap[child]
            place[heap[at]] = at
            at = child
        heap[at] = node
        place[node] = at
    return int(top)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _look_around(  # noqa: PLR0917
    pixel: int,
    near: Side,
    far: Side,
    graph: Graph,
    scratch: Scratch,
    base: int,
    end: End,
    size: int,
) -> tuple[End, int]:
    """Extend paths from a near pixel to all far pixels in its reach.

    Args:
        pixel: near.
        near: its side.
        far: the other.
        graph: reach and costs.
        scratch: the heap and the paths.
        base: length of the path to `pixel`, less its price.
        end: the cheapest end so far.
        size: of the heap.

    Returns:
        The cheapest end and the heap's size after it.
    """
    stamp, length, heap, place = scratch.stamp, scratch.length, scratch.heap, scratch.place
    number = scratch.number[0]
    for k in range(graph.offsets.size):
        total = base + graph.costs[k]
        # Costs rise from here, and no price is higher than `outlier`: nothing shorter follows.
        if total - graph.outlier >= end.length:
            break
        other = pixel + graph.offsets[k]
        if not far.active[other]:
            continue
        total -= far.price[other]
        known = stamp[other] == number
        if total >= end.length or (known and length[other] <= total):
            continue
        stamp[other] = number
        length[other] = total
        scratch.parent[other] = pixel
        mate = far.partner[other]
        if mate < 0:
            end = End(total, other, False)
            continue
        give_up = total + graph.outlier - near.price[mate]
        if give_up < end.length:
            end = End(give_up, other, True)
        if not known:
            place[other] = size
            heap[size] = other
            size += 1
        _rise(heap, place, length, place[other])
    return end, size


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _insert(source: int, near: Side, far: Side, graph: Graph, scratch: Scratch) -> None:
    """Give the new pixel `source` of side `near` its place in the cheapest matching.

    Dijkstra over alternating paths, lengths in reduced costs. A path ends at a pixel of `far`
    without partner, at a pixel of `near` that gives up its partner, or at `source` itself.
    """
    # A new number makes all older entries void, where clearing them would touch the whole image.
    scratch.number[0] += 1
    length = scratch.length
    count = 0
    end = End(int(graph.outlier), -1, False)
    end, size = _look_around(source, near, far, graph, scratch, 0, end, 0)
    while size > 0 and length[scratch.heap[0]] < end.length:
        other = _pop(scratch.heap, scratch.place, length, size)
        size -= 1
        scratch.scanned[count] = other
        count += 1
        pixel = int(far.partner[other])
        base = int(length[other] - near.price[pixel])
        end, size = _look_around(pixel, near, far, graph, scratch, base, end, size)
    # Prices change by what each pixel's path is shorter than the best, which keeps the invariants.
    for k in range(count):
        other = scratch.scanned[k]
        slack = end.length - length[other]
        far.price[other] -= slack
        near.price[far.partner[other]] += slack
    near.price[source] = end.length
    near.partner[source] = -1
    if end.release:
        near.partner[far.partner[end.pixel]] = -1
    _exchange(source, end.pixel, near, far, scratch)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _exchange(source: int, last: int, near: Side, far: Side, scratch: Scratch) -> None:
    """Exchange partners along the path from `source` to the far pixel `last`; none if -1."""
    while last >= 0:
        pixel = scratch.parent[last]
        following = near.partner[pixel]
        near.partner[pixel] = last
        far.partner[last] = pixel
        last = following if pixel != source else -1


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def match_sequence(
    pixels: Int64, starts: Int64, truth: UInt8, graph: Graph
) -> tuple[npt.NDArray[np.bool_], Int64, Int64, Int32]:
    """Match T maps with one ground truth, one after another.

    Args:
        pixels: [P], flat indices into the padded image, map after map.
        starts: [T + 1], the first place of each map in `pixels`.
        truth: [N], the ground truth, padded by at least the reach.
        graph: reach and costs.

    Returns:
        bool [P], True for pixels with a partner; [T] pairs; [T] sum of their costs; [N] partners
        of the truth's pixels in the last map, -1 for none.
    """
    n = truth.size
    far = Side(truth.copy(), np.full(n, -1, np.int32), np.full(n, graph.outlier, np.int32))
    near = Side(np.zeros(n, np.uint8), np.full(n, -1, np.int32), np.zeros(n, np.int32))
    scratch = Scratch(
        np.zeros(1, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
    )
    maps = starts.size - 1
    matched = np.zeros(pixels.size, np.bool_)
    pairs = np.zeros(maps, np.int64)
    totals = np.zeros(maps, np.int64)
    present = np.zeros(n, np.int32)
    for index in range(maps):
        now = pixels[starts[index] : starts[index + 1]]
        before = pixels[starts[max(index - 1, 0)] : starts[index]]
        present[now] = index + 1
        freed = _take_away(before[present[before] != index + 1], near, far)
        # Truth pixels that lost their partner were taken out with it, and are inserted anew.
        for pixel in freed:
            far.active[pixel] = 1
            _insert(pixel, far, near, graph, scratch)
        for pixel in now:
            if not near.active[pixel]:
                near.active[pixel] = 1
                _insert(pixel, near, far, graph, scratch)
        for k in range(now.size):
            mate = near.partner[now[k]]
            if mate >= 0:
                matched[starts[index] + k] = True
                pairs[index] += 1
                for step in range(graph.offsets.size):
                    if graph.offsets[step] == mate - now[k]:
                        totals[index] += graph.costs[step]
                        break
    return matched, pairs, totals, far.partner


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _take_away(pixels: Int64, near: Side, far: Side) -> Int64:
    """Take near pixels out with their partners; return the partners, for `_insert`."""
    freed = np.empty(pixels.size, np.int64)
    count = 0
    for pixel in pixels:
        near.active[pixel] = 0
        mate = near.partner[pixel]
        if mate >= 0:
            near.partner[pixel] = -1
            far.partner[mate] = -1
            far.active[mate] = 0
            freed[count] = mate
            count += 1
    return freed[:count]
