"""Timing several programs in turns, so that a machine's moods meet all of them."""

import time
from collections.abc import Callable, Mapping


def interleaved(
    programs: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Run each program once untimed, then all of them in turn, round after round.

    Returns:
        Seconds of every round, by program.
    """
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - started)
    return seconds
