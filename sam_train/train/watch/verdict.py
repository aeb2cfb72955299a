"""The process that caused a stall, found among several stalled ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sam_train.train.watch.heartbeats import Heartbeat, condition
from sam_train.train.watch.pulse import STAGES

_NAMED = 3
"""So many processes are named in a line; a rack that lost its power is more."""


def hanging(beats: Mapping[int, Heartbeat], silent: Iterable[int]) -> list[int]:
    """Decide which of several stalled ranks caused the stall; all if that cannot be told.

    Who is silent is the reason. Otherwise who does not itself wait for others, and of those who is
    least far: a GPU's process may be ahead of what it has computed, but not of the slowest.

    Args:
        beats: of all ranks that have given a sign.
        silent: ranks that give none any more.
    """
    if silent := sorted(silent):
        return silent
    live = [beat for beat in beats.values() if beat.state != "ended"]
    busy = [beat for beat in live if not beat.waits] or live
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
        host: this machine's name; of its own processes the kernel can say more.
        minutes: without progress.
    """
    silent = set(silent)
    ranks = hanging(beats, silent)
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
