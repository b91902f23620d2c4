"""An installed backend that is named on a command line: ``--backend redis --argument url=...``."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from barrier_core import Barrier, BarrierConfigError, create_barrier
from barrier_core.capability import Capability
from barrier_core.discovery.arguments import options_of
from barrier_core.discovery.registry import registry
from barrier_core.launcher import RankInfo


def add_options(parser: argparse.ArgumentParser, default: str | None, what_for: str) -> None:
    """Add ``--backend`` and ``--argument``."""
    parser.add_argument(
        "--backend", default=default, metavar="NAME", help=f"an installed backend {what_for}"
    )
    parser.add_argument(
        "--argument",
        dest="arguments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=_split,
        help="an argument of that backend; can be given repeatedly",
    )


def _split(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{argument!r} must be KEY=VALUE")
    return name, value


@dataclass(frozen=True)
class NamedBackend:
    """A backend by name, with the arguments that the command line gives it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def capabilities(self) -> Capability:
        """What it declares.

        Raises:
            BarrierError: There is no such backend, or it is broken.
        """
        declared = getattr(registry.get(self.name), "capabilities", None)
        return declared if isinstance(declared, Capability) else Capability.NONE

    def check(self) -> None:
        """Check that its ranks can be processes.

        Raises:
            BarrierError: They cannot, there is no such backend, or it is broken.
        """
        if getattr(registry.get(self.name), "ranks_are_threads", False):
            raise BarrierConfigError(
                f"the ranks of the {self.name} barrier are threads of one process, and here every "
                "rank is a process; choose another (`barrier list` shows them)"
            )

    def make(
        self, rank: int, world_size: int, job_id: str, generation: str, **wanted: Any
    ) -> Barrier:
        """Make the barrier on a rank.

        Args:
            rank: The rank.
            world_size: Number of ranks.
            job_id: As a launcher would set it.
            generation: As a launcher would set it.
            wanted: Given to backends that have such an option, unless the command line gives it.
        """
        known = {option.name for option in options_of(registry.get(self.name))}
        arguments = {name: value for name, value in wanted.items() if name in known}
        launcher = {"BARRIER_JOB_ID": job_id, "TORCHELASTIC_RESTART_COUNT": generation}
        with mock.patch.dict(os.environ, launcher):
            return create_barrier(
                self.name, RankInfo(rank, world_size), **{**arguments, **self.arguments}
            )
