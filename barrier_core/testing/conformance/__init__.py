"""The conformance suite: what every backend must do, as a pytest class to derive from.

::

    class TestMyBarrier(BarrierContract):
        backend = MyBarrier
        ranks_are = "processes"

        @pytest.fixture
        def make_barrier(self) -> MakeBarrier:
            return make_my_barrier


    def make_my_barrier(spec: RankSpec) -> MyBarrier:
        return MyBarrier(spec.rank, spec.world_size, spec.timeout_secs)

Tests of what the backend does not declare are skipped as ``not declared``. A class that replaces a
standard test must say why in ``overrides``, one that leaves a test out in ``left_out``: by the name
of the test, as in ``left_out: ClassVar = {"test_...": "the reason"}``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from barrier_core.testing.conformance.forks import ForkTests
from barrier_core.testing.conformance.members import MemberTests
from barrier_core.testing.conformance.messages import MessageTests
from barrier_core.testing.conformance.observers import ObserverTests
from barrier_core.testing.conformance.safety import SafetyTests
from barrier_core.testing.conformance.signals import SignalTests
from barrier_core.testing.conformance.state import StateTests
from barrier_core.testing.conformance.usage import UsageTests
from barrier_core.testing.conformance.verdicts import VerdictTests
from barrier_core.testing.rank_spec import MakeBarrier, RankSpec

__all__ = ["BarrierContract", "MakeBarrier", "RankSpec"]


class BarrierContract(
    # pytest runs the tests of the last one first: what everything else stands on.
    ObserverTests,
    UsageTests,
    StateTests,
    SignalTests,
    ForkTests,
    MemberTests,
    MessageTests,
    VerdictTests,
    SafetyTests,
):
    """The standard tests. Derive a class ``Test...`` for your backend; see the module's text.

    What to set and to supply is described in `barrier_core.testing.conformance.suite.Suite`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _guard(cls)


def _guard(cls: type[BarrierContract]) -> None:
    """Refuse a class that lacks what the tests need, or changes them without saying why.

    Raises:
        TypeError: It does.
    """
    if cls.world_size < 3:
        raise TypeError(f"{cls.__name__}.world_size is {cls.world_size}; the tests need 3 ranks")
    if getattr(cls, "ranks_are", "threads") not in ("threads", "processes"):
        raise TypeError(f'{cls.__name__}.ranks_are must be "threads" or "processes"')
    if getattr(cls, "__test__", True) is not True:
        raise TypeError(f"{cls.__name__}.__test__ would drop every standard test")
    standard = {name for name in dir(BarrierContract) if name.startswith("test_")}
    overrides, left_out = _reasons(cls, "overrides"), _reasons(cls, "left_out")
    for name in sorted({*overrides, *left_out} - standard):
        raise TypeError(f"{cls.__name__} gives a reason for {name}, which is no standard test")
    for name in sorted(standard):
        changed = getattr(cls, name) is not getattr(BarrierContract, name)
        if name in left_out:
            setattr(cls, name, _left_out(name, left_out[name]))
        elif changed and name not in overrides:
            raise TypeError(
                f"{cls.__name__} replaces or drops the standard test {name}: say why, in "
                f'overrides = {{"{name}": "the reason"}}, or in left_out'
            )
        elif name in overrides and not changed:
            raise TypeError(
                f"{cls.__name__}.overrides names {name}, but the class has it unchanged"
            )


def _reasons(cls: type[BarrierContract], attribute: str) -> dict[str, str]:
    """Return the reasons that a class and those it derives from give, by the name of the test.

    Raises:
        TypeError: One is empty.
    """
    reasons = {
        name: reason
        for base in reversed(cls.__mro__)
        for name, reason in vars(base).get(attribute, {}).items()
    }
    for name, reason in reasons.items():
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(f"{cls.__name__}.{attribute} gives no reason for {name}")
    return reasons


def _left_out(name: str, reason: str) -> Callable[[BarrierContract], None]:
    """Return a test that is reported as left out."""

    def left_out(self: BarrierContract) -> None:
        pytest.skip(f"left out: {reason}")

    left_out.__name__ = name
    return left_out
