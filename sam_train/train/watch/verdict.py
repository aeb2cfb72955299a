"""The process that caused a stall, found among several stalled ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sam_train.train.watch.heartbeats import Heartbeat, condition
from sam_train.train.watch.pulse import STAGES

_NAMED = 3
"""Processes named in a line, at most; a rack that lost its power has more."""


def hanging(beats: Mapping[int, Heartbeat], silent: Iterable[int]) -> list[int]:
    """Decide which of several stalled ranks caused the stall; all if that cannot be told.

    Silent ranks are the cause. Without any, it is the least advanced of those ranks that do not
    themselves wait for others.

    Args:
        beats: the heartbeats of all ranks that have given one.
        silent: ranks that give none any more.
    """
    if silent := sorted(silent):
        return silent
    live = [beat for beat in beats.values() if beat.state != "ended"]
    busy = [beat for beat in live if not beat.waits] or live
    # A GPU's process may be ahead of what its card has computed, but never of the slowest rank.
    least = min((_progress(beat) for beat in busy), default=(0, 0))
    return sorted(beat.rank for beat in busy if _progress(beat) == least)


def sentence(
    beats: Mapping[int, Heartbeat],
    silent: Iterable[int],
    *,
    world_size: int,
    host: str,
    minutes: float,
) -> str:
    """Describe in one line which ranks hang, and where.

    Args:
        beats, silent: see `hanging`.
        world_size: number of ranks.
        host: this machine's name; the kernel can say more of its own processes.
        minutes: time without progress.
    """
    silent = set(silent)
    ranks = hanging(beats, silent)
    # Then nobody is to blame, and one place says as much as a thousand.
    if len(ranks) == world_size > 1 and not silent:
        who = f"all {world_size} processes stand still: {_describe(beats[ranks[0]])}"
    else:
        parts = [
            _silent(rank, beats.get(rank), host) if rank in silent else _describe(beats[rank])
            for rank in ranks[:_NAMED]
        ]
        more = f", and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
        who = "; ".join(parts) + more
    ended = [beat for beat in beats.values() if beat.state == "ended"]
    left = "".join(f"; rank {beat.rank} ({beat.host}) has ended before" for beat in ended[:_NAMED])
    return f"the run hangs, {minutes:.3g} minutes without progress: {who}{left}"


def _progress(beat: Heartbeat) -> tuple[int, int]:
    return beat.step, STAGES.index(beat.stage) if beat.stage in STAGES else 0


def _moment(beat: Heartbeat) -> str:
    return f"behind step {beat.step}, {beat.stage}"


def _describe(beat: Heartbeat) -> str:
    return f"rank {beat.rank} ({beat.host}) {_moment(beat)}, stands in {beat.where or '?'}"


def _silent(rank: int, beat: Heartbeat | None, host: str) -> str:
    if beat is None:
        return f"rank {rank} never gave a sign of life"
    how = condition(beat) if beat.host == host else "gives no sign of life any more"
    return f"rank {rank} ({beat.host}) {how}, last seen {_moment(beat)}"
