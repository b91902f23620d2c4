"""The ``dist_barrier`` backend. torch is imported when a barrier is made, not before."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from barrier_core.plugin_api import (
    DEFAULT_TIMEOUT_SECS,
    Barrier,
    BarrierSetupError,
    Capability,
    Meta,
    RankStatus,
    TimeoutSecs,
    Verdict,
    check_limit,
    check_switch,
    failure,
    format_ranks,
)

Collective = Callable[[timedelta], None]

# gloo ends a wait that has expired by closing the connections, which the other side sees.
_TIMEOUT_WORDS = re.compile(r"tim(ed|e) ?out|connection closed", re.IGNORECASE)
_LONGEST_SECS = 1e9  # thirty years; a clock in nanoseconds has room for nine times as much
_TAG = 0x62617272  # of messages that are nobody else's


class NoProcessGroupError(BarrierSetupError, AssertionError):
    """There is no process group yet. An AssertionError too, as in torch's `DistBarrier`."""


class _MissingRanksError(RuntimeError):
    """Some ranks did not come; the text is what torch said of the first."""

    def __init__(self, ranks: list[int], text: str) -> None:
        super().__init__(text)
        self.ranks = ranks


class DistBarrier(Barrier):
    """A barrier over a torch.distributed process group.

    Every rank must be alive to hear of a failure, and each decides by its own clock: a process
    group gives no agreed verdict and no abort. On gloo, the group's first rank names the missing
    ones.

    Args:
        timeout_secs: Hard limit in seconds on one wait; None or infinity: no limit.
        process_group: The group to use; the default group if None.
        own_group: Make a group of its own with the same ranks, so that collectives of other threads
            are not disturbed. All ranks must do so together, as with
            ``torch.distributed.new_group``.

    Raises:
        BarrierSetupError: There is no process group, or this rank is not in it; also an
            AssertionError, as in torch.
    """

    barrier_type: ClassVar[str] = "dist_barrier"
    contract_version: ClassVar[int] = 2
    capabilities: ClassVar[Capability] = Capability.TIMEOUT | Capability.BOUNDED_STATE

    def __init__(
        self,
        timeout_secs: TimeoutSecs = DEFAULT_TIMEOUT_SECS,
        process_group: Annotated[
            Any, Meta(description="a torch process group; the default one if not given")
        ] = None,
        own_group: Annotated[
            bool, Meta(description="make a group of its own, for use beside other collectives")
        ] = False,
    ) -> None:
        check_limit("timeout_secs", timeout_secs)
        check_switch("own_group", own_group)
        dist = _torch_distributed()
        if not (dist.is_available() and dist.is_initialized()):
            raise NoProcessGroupError(
                "DistBarrier requires an initialized process group: call "
                "torch.distributed.init_process_group() before creating it"
            )
        rank = dist.get_rank(process_group)
        if rank < 0:
            raise NoProcessGroupError(
                f"rank {dist.get_rank()} is not in the given process_group; create the barrier "
                "only on the ranks that are"
            )
        super().__init__(rank, dist.get_world_size(process_group), timeout_secs, None)
        self._group: Any = process_group or dist.group.WORLD
        self._own_group: Any = None
        self._ranks: list[int] = dist.get_process_group_ranks(self._group)
        """The group's ranks as the job knows them."""
        if len(self._ranks) < dist.get_world_size():
            # Groups of one size side by side would look like one barrier in a trace.
            self.barrier_prefix = f"ranks {format_ranks(self._ranks)}"
        if own_group:
            self._own_group = self._group = dist.new_group(
                self._ranks, timeout=_duration(self.timeout_secs), use_local_synchronization=True
            )
        self._collective = _choose_collective(dist, self._group)

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        started = time.monotonic()
        try:
            self._collective(_duration(timeout_secs))
        except RuntimeError as error:  # every error of torch.distributed is one
            waited = time.monotonic() - started
            raise failure(self._verdict(error, number, waited, timeout_secs, tag)) from error

    def _verdict(
        self,
        error: RuntimeError,
        number: int,
        waited_secs: float,
        timeout_secs: float,
        tag: str,
    ) -> Verdict:
        text = str(error).strip()
        missing = error.ranks if isinstance(error, _MissingRanksError) else []
        expired = waited_secs >= timeout_secs * 0.9 and _TIMEOUT_WORDS.search(text)
        if expired:
            reason = f"after {waited_secs:.1f} s"
        else:
            # Without the source file that gloo puts in front, and the advice that it adds.
            said = re.sub(r"^\[[^]]*\] ?", "", text).splitlines()[0].split(". ")[0]
            reason = f"the process group failed: {said}"
        if not missing and self.rank_info.global_rank != 0:
            reason += f"; rank {self._ranks[0]} can tell which ranks are missing"
        return Verdict(
            kind="timeout" if expired else "store",
            round=number,
            tag=tag,
            rank=self._ranks[self.rank_info.global_rank],
            reason=reason,
            world_size=self.rank_info.global_world_size,
            missing=tuple(RankStatus(rank, detail="did not come") for rank in missing),
        )

    def _close(self) -> None:
        # A group whose collective has failed cannot be taken down in step with the others.
        if self._own_group is not None and self.failed is None:
            _torch_distributed().destroy_process_group(self._own_group)
        self._group = self._own_group = None


def _duration(secs: float) -> timedelta:
    """Return a limit as torch takes it, which adds it to a clock that counts nanoseconds."""
    return timedelta(seconds=min(secs, _LONGEST_SECS))


def _torch_distributed() -> Any:
    try:
        import torch.distributed as dist
    except ImportError as error:
        raise BarrierSetupError(
            f"the dist_barrier barrier needs torch, which cannot be imported: {error}"
        ) from error
    return dist


def _choose_collective(dist: Any, group: Any) -> Collective:
    """Return the call that waits for all ranks of the group, within a limit."""
    backend = str(dist.get_backend(group))
    if backend == "gloo":
        ranks = dist.get_process_group_ranks(group)
        return lambda timeout: _meet_first_rank(dist, group, ranks, timeout)
    options: dict[str, Any] = {}
    if "nccl" in backend:
        import torch

        device = choose_device(
            os.environ,
            bound=getattr(group, "bound_device_id", None),
            current=torch.cuda.current_device(),
            count=torch.cuda.device_count(),
        )
        options["device_ids"] = [device]
    if "timeout" in inspect.signature(dist.barrier).parameters:
        return lambda timeout: dist.barrier(group, timeout=timeout, **options)
    return lambda timeout: _barrier_with_wait(dist, group, timeout, options)


def _meet_first_rank(dist: Any, group: Any, ranks: list[int], timeout: timedelta) -> None:
    """Wait until the group's first rank has heard of all others, and each of them of that.

    Why not ``dist.monitored_barrier``, which does the same: it limits the first rank's wait only.
    Where that rank is the missing one, the others wait for the group's own limit, half an hour
    unless changed. This costs about the same; ``dist.barrier`` costs more and names nobody.
    """
    import torch

    deadline = time.monotonic() + timeout.total_seconds()

    def message() -> Any:
        return torch.zeros(1, dtype=torch.uint8)

    def wait(work: Any) -> None:
        work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.001)))

    first, *others = ranks
    if dist.get_rank() != first:
        for work in (
            dist.isend(message(), first, group, _TAG),
            dist.irecv(message(), first, group, _TAG),
        ):
            wait(work)
        return
    arrivals: dict[int, Any] = {}
    missing: dict[int, str] = {}
    for rank in others:
        try:
            arrivals[rank] = dist.irecv(message(), rank, group, _TAG)
        except RuntimeError as error:  # its connection is known to be lost before one asks
            missing[rank] = str(error)
    for rank, arrival in arrivals.items():
        try:
            wait(arrival)
        except RuntimeError as error:
            # The first one ends the group's life; who has come before is known nevertheless.
            missing[rank] = str(error)
    if missing:
        raise _MissingRanksError(sorted(missing), next(iter(missing.values())))
    for release in [dist.isend(message(), rank, group, _TAG) for rank in others]:
        wait(release)


def _barrier_with_wait(dist: Any, group: Any, timeout: timedelta, options: dict[str, Any]) -> None:
    """Wait with a limit where ``dist.barrier`` takes none (torch before 2.8)."""
    work = dist.barrier(group, async_op=True, **options)
    if work is not None and not work.wait(timeout):
        raise RuntimeError(f"timed out after {timeout.total_seconds():g} s")


def choose_device(environ: Mapping[str, str], bound: Any, current: int, count: int) -> int:
    """Return the index of this rank's own GPU.

    torch's barrier would take GPU 0 on every rank that has not set its device, which hangs or fills
    GPU 0 with everybody's contexts (ray#42751, kohya-ss/sd-scripts#1925).

    Args:
        environ: The environment; torchrun tells ``LOCAL_RANK`` there.
        bound: The ``device_id`` that was given to ``init_process_group``, if any.
        current: torch's current device, 0 if nobody has set it.
        count: Number of GPUs that this process can see.
    """
    if bound is not None and getattr(bound, "index", None) is not None:
        return int(bound.index)
    if current != 0:  # somebody has chosen it
        return current
    local_rank = environ.get("LOCAL_RANK", "")
    # A rank that sees fewer GPUs than its place on the host was given its own by the launcher.
    return int(local_rank) if local_rank.isdigit() and int(local_rank) < count else current
