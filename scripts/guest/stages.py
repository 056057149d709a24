"""The stages of a boot, each proven by a line of the console."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from scripts.guest.qemu import Boot


class Stage(NamedTuple):
    """A step of the boot and the line of the console that proves it."""

    name: str
    proof: str


class Reached(NamedTuple):
    """A stage that was seen, when (milliseconds since QEMU was started, host clock) and by which text."""

    stage: str
    ms: int
    text: str


def stages_of(boot: Boot, stages: Sequence[Stage]) -> list[Reached]:
    """The stages that were seen, in order, up to the first that was not."""
    reached: list[Reached] = []
    for stage in stages:
        found = next(((line, m) for line in boot.lines if (m := re.search(stage.proof, line.text))), None)
        if found is None:
            break
        reached.append(Reached(stage.name, found[0].ms, found[1].group()))
    return reached


def describe_failure(boot: Boot, reached: list[Reached], limit: float, stages: Sequence[Stage]) -> str | None:
    """The stage that failed and how the boot ended; None if there was no failure."""
    if boot.status == 0 and len(reached) == len(stages):
        return None
    if boot.status is None:
        ending = f"the time limit of {limit:g} s ended the boot"
    else:
        ending = f"QEMU ended with {boot.status} after {boot.ms} ms"
    if len(reached) == len(stages):
        return ending
    stage = stages[len(reached)]
    return f"{stage.name}: expected a console line like {stage.proof!r}; {ending}"
