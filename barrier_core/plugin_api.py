"""Everything that the author of a plugin imports.

Every other path inside ``barrier_core`` may change in any release. These names may not:

* A name stays, and keeps its meaning, for as long as `CONTRACT_VERSION` stays.
* A name that is to go warns with a `DeprecationWarning` that says what to use instead, in at least
  one minor release before it goes.
* `CONTRACT_VERSION` rises when a backend written for the one before cannot work any more. Its minor
  release says so first in the changelog, with what to change. A backend that declares another
  version is refused when it is loaded, with a message that says which side to upgrade.
* A plugin states the oldest core that it works with in its own metadata
  (``barrier-core>=0.1.0``). This is checked when the plugin is loaded, also where an installer did
  not, and the message gives the remedy.
* Security and data-loss fixes are made for the latest two minor releases of the core.

Users of barriers import from ``barrier_core``; the tests of a plugin from ``barrier_core.testing``.
"""

from __future__ import annotations

from msgspec import Meta

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.keys import ROUND_DIGITS, RoundKeys, Series
from barrier_core.agreement.store import (
    ANSWER_SECS,
    BRIEF_SECS,
    Connect,
    Joining,
    StoreAccess,
    StoreClient,
)
from barrier_core.capability import Capability
from barrier_core.contract import CONTRACT_VERSION, Barrier
from barrier_core.errors import (
    BarrierConfigError,
    BarrierConnectionError,
    BarrierError,
    BarrierFailedError,
    BarrierPluginError,
    BarrierSetupError,
    BarrierTimeoutError,
    BarrierUsageError,
    BrokenBarrierError,
    RankConflictError,
    describe_exception,
    failure,
)
from barrier_core.hooks import ObservedBarrier, hookimpl, plugin_manager
from barrier_core.launcher import RankInfo, job_id_from_environment
from barrier_core.observers.trace_format import (
    SUFFIX,
    TRACE_FORMAT,
    BarrierStart,
    ClockReading,
    FailedRound,
    Line,
    PassedRound,
    TraceStart,
)
from barrier_core.options import (
    DEFAULT_HEARTBEAT_SECS,
    DEFAULT_LINGER_SECS,
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    HeartbeatSecs,
    JobId,
    JobSecret,
    LingerSecs,
    ProgressExtendsDeadline,
    TimeoutSecs,
    Verify,
    WarnAfterSecs,
    check_limit,
    check_name,
    check_seconds,
)
from barrier_core.printable import printable
from barrier_core.tags import tag_without_numbers
from barrier_core.this_process import Owner, after_fork
from barrier_core.verdict import RankState, RankStatus, Verdict, VerdictKind, format_ranks

__all__ = [
    "ANSWER_SECS",
    "BRIEF_SECS",
    "CONTRACT_VERSION",
    "DEFAULT_HEARTBEAT_SECS",
    "DEFAULT_LINGER_SECS",
    "DEFAULT_TIMEOUT_SECS",
    "DEFAULT_WARN_AFTER_SECS",
    "ROUND_DIGITS",
    "SUFFIX",
    "TRACE_FORMAT",
    "Barrier",
    "BarrierConfigError",
    "BarrierConnectionError",
    "BarrierError",
    "BarrierFailedError",
    "BarrierPluginError",
    "BarrierPrefix",
    "BarrierSetupError",
    "BarrierStart",
    "BarrierTimeoutError",
    "BarrierUsageError",
    "BrokenBarrierError",
    "Capability",
    "ClockReading",
    "Connect",
    "FailedRound",
    "Generation",
    "GlobalRank",
    "GlobalWorldSize",
    "HeartbeatSecs",
    "JobId",
    "JobSecret",
    "Joining",
    "Line",
    "LingerSecs",
    "Meta",
    "ObservedBarrier",
    "Owner",
    "PassedRound",
    "ProgressExtendsDeadline",
    "RankConflictError",
    "RankInfo",
    "RankState",
    "RankStatus",
    "RoundKeys",
    "Series",
    "StoreAccess",
    "StoreBarrier",
    "StoreClient",
    "StoreLostError",
    "TimeoutSecs",
    "TraceStart",
    "Verdict",
    "VerdictKind",
    "Verify",
    "WarnAfterSecs",
    "after_fork",
    "check_limit",
    "check_name",
    "check_seconds",
    "describe_exception",
    "failure",
    "format_ranks",
    "hookimpl",
    "job_id_from_environment",
    "plugin_manager",
    "printable",
    "tag_without_numbers",
]
