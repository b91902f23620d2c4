"""A backend's options: how they are described, checked, converted and filled in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from msgspec import Meta

from barrier_core import BarrierConfigError, RankInfo
from barrier_core.backends.local import LocalBarrier
from barrier_core.discovery.arguments import bind_arguments, options_of

if TYPE_CHECKING:
    from somewhere_else import (  # type: ignore[import-not-found]  # as in a plugin's own code
        Handle,
    )


class ProcessGroup:
    """A type that only the backend can judge."""


class Backend:
    """A backend with an option of each kind; torch's contract, so any class will do."""

    barrier_type = "sample"

    def __init__(  # type: ignore[no-untyped-def]  # as in torch, not all are annotated
        self,
        global_rank: int,
        global_world_size: int,
        port: Annotated[int, Meta(description="port of the store", ge=1)],
        timeout_secs: Annotated[float, Meta(description="hard limit in seconds")] = 600.0,
        use_libuv: bool = True,
        master_address: Annotated[str | None, Meta(description="rank 0's host")] = None,
        warn_after_secs: float | None = 30.0,
        group: ProcessGroup | None = None,
        store: Any = None,
        undescribed=None,
    ) -> None:
        self.global_rank = global_rank


class TakesNothing:
    def execute_barrier(self) -> None:
        pass


class TakesAnything:
    def __init__(self, port: int = 1, **others: Any) -> None:
        self.others = others


class NotResolvable:
    def __init__(self, handle: Handle, port: int = 1) -> None:
        self.handle = handle


RANK_1_OF_2 = RankInfo(1, 2)


# --- what a backend takes ------------------------------------------------------------------------


def test_options_are_read_from_the_constructor_in_its_order() -> None:
    described = [
        (option.name, option.type_name, option.required, option.description)
        for option in options_of(Backend)
    ]

    assert described == [
        ("global_rank", "int", False, ""),
        ("global_world_size", "int", False, ""),
        ("port", "int", True, "port of the store"),
        ("timeout_secs", "float", False, "hard limit in seconds"),
        ("use_libuv", "bool", False, ""),
        ("master_address", "str | None", False, "rank 0's host"),
        ("warn_after_secs", "float | None", False, ""),
        ("group", f"{__name__}.ProcessGroup | None", False, ""),
        ("store", "object", False, ""),
        ("undescribed", "any", False, ""),
    ]


def test_options_know_their_defaults() -> None:
    defaults = {option.name: option.default for option in options_of(Backend)}

    assert defaults["timeout_secs"] == 600.0
    assert defaults["master_address"] is None


def test_a_backend_of_the_core_describes_every_option() -> None:
    assert [option.name for option in options_of(LocalBarrier) if not option.description] == []


def test_a_class_without_a_constructor_has_no_options() -> None:
    assert options_of(TakesNothing) == []
    with pytest.raises(BarrierConfigError, match="TakesNothing barrier has no argument port"):
        bind_arguments(TakesNothing, {"port": 1})


def test_options_with_types_that_cannot_be_resolved_go_unchecked() -> None:
    assert [option.type_name for option in options_of(NotResolvable)] == ["any", "any"]
    assert bind_arguments(NotResolvable, {"handle": "h", "port": "x"}) == {
        "handle": "h",
        "port": "x",
    }


# --- what a user gives ---------------------------------------------------------------------------


def bind(**args: Any) -> dict[str, Any]:
    return bind_arguments(Backend, {"port": 29511, **args}, RANK_1_OF_2)


def test_rank_and_world_size_are_filled_in() -> None:
    assert bind() == {"global_rank": 1, "global_world_size": 2, "port": 29511}


def test_rank_and_world_size_come_from_the_launcher_if_nobody_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")

    bound = bind_arguments(Backend, {"port": 29511})

    assert (bound["global_rank"], bound["global_world_size"]) == (3, 4)


def test_a_given_rank_and_world_size_need_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "not even readable")
    monkeypatch.setenv("WORLD_SIZE", "4")

    bound = bind_arguments(Backend, {"port": 1, "global_rank": 0, "global_world_size": 1})

    assert (bound["global_rank"], bound["global_world_size"]) == (0, 1)


def test_a_class_that_takes_no_rank_needs_no_launcher() -> None:
    assert bind_arguments(TakesNothing, {}) == {}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("timeout_secs", 30, 30.0),
        ("timeout_secs", "30", 30.0),
        ("port", "29511", 29511),
        ("use_libuv", "false", False),
        ("use_libuv", "1", True),
        ("master_address", "10.0.0.1", "10.0.0.1"),
        ("master_address", None, None),
        ("master_address", "none", "none"),
        ("warn_after_secs", "none", None),
        ("warn_after_secs", "30", 30.0),
        ("store", "anything", "anything"),
        ("undescribed", [1], [1]),
    ],
)
def test_a_value_is_converted_to_the_type_of_the_option(
    name: str, given: object, taken: object
) -> None:
    bound = bind(**{name: given})[name]

    assert bound == taken
    assert type(bound) is type(taken)


@pytest.mark.parametrize("group", [ProcessGroup(), object(), None])
def test_only_the_backend_judges_what_is_given_for_a_type_of_its_own(group: Any) -> None:
    assert bind(group=group)["group"] is group


def test_a_class_that_takes_any_option_gets_it_as_it_is() -> None:
    assert bind_arguments(TakesAnything, {"port": "2", "colour": "blue"}) == {
        "port": 2,
        "colour": "blue",
    }


def test_not_a_number_is_a_number_whose_range_the_barrier_checks() -> None:
    assert math.isnan(bind(timeout_secs=math.nan)["timeout_secs"])


REFUSED: dict[str, tuple[dict[Any, Any], list[str]]] = {
    "unknown, with a near match": (
        {"timeout_sec": 30},
        ["sample barrier", "timeout_sec;", "did you mean timeout_secs?"],
    ),
    "unknown, like nothing": (
        {"colour": "blue"},
        ["sample barrier", "colour", "it takes global_rank, global_world_size, port"],
    ),
    "a word for a number": (
        {"timeout_secs": "soon"},
        ["timeout_secs='soon'", "sample barrier", "float", "got `str`"],
    ),
    "a fraction for a whole number": (
        {"port": 29511.5},
        ["port=29511.5", "sample barrier", "int"],
    ),
    "a number for a name": (
        {"master_address": 10},
        ["master_address=10", "sample barrier", "str | None"],
    ),
    "a word for a switch": ({"use_libuv": "perhaps"}, ["use_libuv='perhaps'", "bool"]),
    "none where it is no value": ({"port": None}, ["port=None", "int"]),
    "the word none where it is no value": ({"timeout_secs": "none"}, ["timeout_secs='none'"]),
    "less than the author's bound": ({"port": -1}, ["port=-1", "sample barrier", ">= 1"]),
    "less, from the environment": ({"port": "0"}, ["port='0'", "sample barrier", ">= 1"]),
    "text with half a surrogate": ({"port": "\udcff"}, ["port='\\udcff'", "sample barrier", "int"]),
    "a number that no float has room for": ({"timeout_secs": 10**400}, ["timeout_secs=(a number"]),
    "a very long text": ({"port": "x" * 10**6}, ["port='xxx", "...", "sample barrier"]),
    "a name that is no text": ({3: 4}, ["whose name is 3", "names are text"]),
    "a list for a number": ({"timeout_secs": [1]}, ["timeout_secs=[1]", "float"]),
    "a rank that is no number": ({"global_rank": "first"}, ["global_rank='first'", "int"]),
}


@pytest.mark.parametrize(("args", "fragments"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_key_value_and_backend(
    args: dict[Any, Any], fragments: list[str]
) -> None:
    with pytest.raises(BarrierConfigError) as raised:
        bind_arguments(Backend, {"port": 29511, **args}, RANK_1_OF_2)

    assert [fragment for fragment in fragments if fragment not in str(raised.value)] == []
    assert len(str(raised.value)) < 1_000


def test_a_missing_argument_is_named_with_the_place_to_add_it() -> None:
    with pytest.raises(BarrierConfigError) as raised:
        bind_arguments(Backend, {}, RANK_1_OF_2)

    assert str(raised.value) == (
        "the sample barrier needs port: add to barrier_args (see `barrier info sample`)"
    )


def test_a_constructor_that_is_replaced_has_other_options() -> None:
    class Changing:
        def __init__(self, port: int) -> None:
            pass

    def with_a_host(self: Changing, host: str) -> None:
        pass

    assert bind_arguments(Changing, {"port": "1"}) == {"port": 1}
    Changing.__init__ = with_a_host  # type: ignore[method-assign, assignment]
    assert bind_arguments(Changing, {"host": "here"}) == {"host": "here"}
