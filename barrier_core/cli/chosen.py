"""The barrier that a command's options, a config file and the environment ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from barrier_core.capability import Capability
from barrier_core.config import BarrierConfig, create_barrier_from_config
from barrier_core.contract import Barrier
from barrier_core.discovery.arguments import bind_arguments
from barrier_core.discovery.registry import registry
from barrier_core.errors import BarrierConfigError
from barrier_core.launcher import RankInfo
from barrier_core.options import check_limit

F = TypeVar("F", bound=Callable[..., Any])


def choosing_options(command: F) -> F:
    """Add the options that choose a barrier: ``--config``, ``--type`` and ``--arg``."""
    for option in (
        click.option(
            "--arg",
            "arguments",
            multiple=True,
            metavar="KEY=VALUE",
            help="An argument of the barrier, over the one in the config. Can be given repeatedly.",
        ),
        click.option(
            "--type", "barrier_type", metavar="TYPE", help="The barrier, over that of the config."
        ),
        click.option(
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="A config file, in TOML or JSON. BARRIER_CONFIG, BARRIER_TYPE and "
            "BARRIER_ARG_<NAME> in the environment override it.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Chosen:
    """A barrier that can be made in each of several processes."""

    config: BarrierConfig
    backend: type

    @classmethod
    def by(
        cls, config_file: Path | None, barrier_type: str | None, arguments: Iterable[str]
    ) -> Chosen:
        """Find what the options ask for; make nothing yet.

        Raises:
            BarrierConfigError: No barrier is chosen, none has this name, or it is of no use here.
            BarrierPluginError: The backend is installed but broken.
        """
        given = dict(_split(argument) for argument in arguments)
        if config_file is None:
            config = BarrierConfig.from_environment()
        else:
            config = BarrierConfig.from_file(config_file)
        chosen = barrier_type or config.barrier_type
        if chosen is None:
            raise BarrierConfigError(
                "no barrier is chosen: give --config FILE, or --type TYPE with --arg KEY=VALUE as "
                "needed (`barrier list` shows the types)"
            )
        if chosen.partition("@")[0] == "local":
            raise BarrierConfigError(
                "a local barrier is one between threads of one process, and here every rank is a "
                "process of its own; choose another type (`barrier list` shows them)"
            )
        return cls(BarrierConfig(chosen, {**config.barrier_args, **given}), registry.get(chosen))

    def check_arguments(self, rank_info: RankInfo | None = None) -> None:
        """Check the arguments as far as that is possible without making the barrier.

        Raises:
            BarrierConfigError: They do not fit the backend.
        """
        bind_arguments(self.backend, self.config.barrier_args, rank_info)

    def check_timeout(self, timeout_secs: float | None) -> None:
        """Check that this barrier honours a time limit.

        Raises:
            BarrierConfigError: It does not, or the limit is no number of seconds.
        """
        if timeout_secs is None:
            return
        check_limit("timeout", timeout_secs)
        declared = getattr(self.backend, "capabilities", None)
        if not isinstance(declared, Capability) or Capability.TIMEOUT not in declared:
            raise BarrierConfigError(
                f"the {self.config.barrier_type} barrier does not declare the capability "
                "'timeout': leave --timeout out"
            )

    def make(self) -> Barrier:
        """Make the barrier in this process, with the launcher's rank and world size.

        Raises:
            BarrierError: As `create_barrier_from_config`.
        """
        barrier = create_barrier_from_config(self.config)
        assert barrier is not None  # a type is chosen
        return barrier


def arrive(barrier: Barrier, timeout_secs: float | None = None, tag: str = "") -> None:
    """Go through a barrier; one of torch's own contract takes no arguments."""
    if isinstance(barrier, Barrier):
        barrier.execute_barrier(timeout_secs, tag)
    else:
        barrier.execute_barrier()


def leave(barrier: Barrier) -> None:
    """Close a barrier; one of torch's own contract has no way to."""
    if isinstance(barrier, Barrier):
        barrier.close()


def _split(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not name.strip():
        # Without what was given: it may be a secret.
        raise BarrierConfigError("--arg takes KEY=VALUE, and one has no '=' or nothing before it")
    return name.strip(), value
