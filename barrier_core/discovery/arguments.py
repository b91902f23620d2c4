"""A backend's options: read from its constructor, and checked against what a user gives."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from barrier_core.errors import BarrierConfigError
from barrier_core.launcher import RankInfo
from barrier_core.secret import Secret
from barrier_core.shown import shown

_LONGEST_NAME = 200
"""Of an argument, in characters: a longer one is like none that there is."""
_FROM_LAUNCHER = ("global_rank", "global_world_size")


class Option(msgspec.Struct, frozen=True):
    """One constructor parameter of a backend."""

    name: str
    annotation: Any
    default: Any
    """`inspect.Parameter.empty` where it must be given."""
    description: str
    checked_type: Any = None
    """The annotation with all that its author says of the value, such as ``Meta(gt=0)``."""

    @property
    def required(self) -> bool:
        """Whether a user has to give it; rank and world size come from the launcher."""
        return self.default is inspect.Parameter.empty and self.name not in _FROM_LAUNCHER

    @property
    def type_name(self) -> str:
        """The type as a user would write it."""
        if self.annotation is inspect.Parameter.empty:
            return "any"
        if self.annotation is Any or self.annotation is object:
            return "object"
        name = inspect.formatannotation(self.annotation).replace("typing.", "")
        return name.replace(f"{Secret.__module__}.{Secret.__name__}", "secret")

    @property
    def is_secret(self) -> bool:
        """Whether nobody must see its value."""
        return Secret in (self.annotation, *typing.get_args(self.annotation))


def options_of(backend: type) -> list[Option]:
    """Return the options of a backend, in the order of its constructor."""
    options = []
    for parameter in _parameters_of(backend):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation, description = parameter.annotation, ""
        if typing.get_origin(annotation) is Annotated:
            annotation, *extras = typing.get_args(annotation)
            metas = [extra for extra in extras if isinstance(extra, msgspec.Meta)]
            description = " ".join(meta.description for meta in metas if meta.description)
        checked_type = parameter.annotation
        options.append(
            Option(parameter.name, annotation, parameter.default, description, checked_type)
        )
    return options


def _parameters_of(backend: type) -> list[inspect.Parameter]:
    """Return the constructor's parameters without ``self``, with annotations that are types."""
    constructor = backend.__init__  # type: ignore[misc]  # the class decides what it accepts
    if constructor is object.__init__:
        return []  # its signature says (*args, **kwargs), and it takes none
    return list(_parameters_after_self(constructor))


@lru_cache(maxsize=128)
def _parameters_after_self(constructor: Callable[..., None]) -> tuple[inspect.Parameter, ...]:
    """Read a signature; remembered, as that is most of the work of making a barrier by name."""
    try:
        # Not typing.get_type_hints, which on Python 3.10 wraps the type of an option that is None
        # by default in Optional, description and all.
        signature = inspect.signature(constructor, eval_str=True)
        return tuple(signature.parameters.values())[1:]
    except Exception:
        # Annotations that cannot be resolved here (names imported for the type checker only) are
        # no reason to refuse the backend: its options go unchecked, as in torch.
        signature = inspect.signature(constructor)
        parameters = tuple(signature.parameters.values())[1:]
        return tuple(parameter.replace(annotation=parameter.empty) for parameter in parameters)


def bind_arguments(
    backend: type, args: Mapping[str, Any], rank_info: RankInfo | None = None
) -> dict[str, Any]:
    """Check and convert arguments against a backend's constructor, and fill in rank and world size.

    Raises:
        BarrierConfigError: An argument is unknown, missing or of the wrong type, or the launcher's
            environment is needed and unusable.
    """
    barrier_type = getattr(backend, "barrier_type", None) or backend.__name__
    options = {option.name: option for option in options_of(backend)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in _parameters_of(backend))
    bound: dict[str, Any] = {}
    for name, value in args.items():
        if not isinstance(name, str):
            raise BarrierConfigError(
                f"the {barrier_type} barrier has an argument whose name is {shown(name)}; names are"
                f" text (see `barrier info {barrier_type}`)"
            )
        if name in options:
            bound[name] = _convert(barrier_type, options[name], value)
        elif takes_any:
            bound[name] = value
        else:
            raise BarrierConfigError(_unknown(barrier_type, name, list(options)))
    wanted = [name for name in _FROM_LAUNCHER if name in options and name not in bound]
    if wanted:
        if rank_info is None:
            rank_info = RankInfo.from_environment()
            if wanted == list(_FROM_LAUNCHER):
                _check_that_ranks_can_meet(backend, barrier_type, rank_info)
        if not isinstance(rank_info, RankInfo):
            raise BarrierConfigError(f"rank_info={shown(rank_info)} must be a RankInfo")
        bound.update({name: getattr(rank_info, name) for name in wanted})
    missing = [name for name, option in options.items() if option.required and name not in bound]
    if missing:
        raise BarrierConfigError(
            f"the {barrier_type} barrier needs {', '.join(missing)}: add to barrier_args"
            f" (see `barrier info {barrier_type}`)"
        )
    return bound


def _check_that_ranks_can_meet(backend: type, barrier_type: str, rank_info: RankInfo) -> None:
    """Refuse a barrier between threads where the launcher has made a process of every rank."""
    ranks = rank_info.global_world_size
    if ranks > 1 and getattr(backend, "ranks_are_threads", False):
        raise BarrierConfigError(
            f"barrier_type={barrier_type!r} cannot be used here: its ranks are threads of one "
            f"process, and the launcher has started a process for each of {ranks} ranks; choose "
            "another type, such as tcp_store (`barrier list` shows them), or give global_rank and "
            "global_world_size where the ranks are threads"
        )


def _convert(barrier_type: str, option: Option, value: Any) -> Any:
    if option.annotation in (inspect.Parameter.empty, Any, object):
        return value
    may_be_none = type(None) in typing.get_args(option.annotation)
    is_none = isinstance(value, str) and value == "none"  # neither TOML nor the environment has it
    if option.is_secret:
        return None if may_be_none and (value is None or is_none) else Secret.of(option.name, value)
    try:
        # Not strict: the environment has only strings, and "600" for 600 is no mistake.
        return msgspec.convert(value, option.checked_type, strict=False)
    except Exception as error:  # also of a value that is nested too deeply, or no number has room
        if is_none and may_be_none:
            return None
        if _is_foreign(option.annotation):
            return value
        raise BarrierConfigError(
            f"{option.name}={shown(value)} does not fit the {barrier_type} barrier, which "
            f"takes {option.type_name}: {error}"
        ) from None


def _is_foreign(annotation: Any) -> bool:
    """Whether msgspec does not know the type, so that only the backend can judge the value."""
    try:
        msgspec.json.schema(annotation)
    except Exception:  # a TypeError, and whatever else a type of somebody's own may raise
        return True
    return False


def _unknown(barrier_type: str, name: str, known: list[str]) -> str:
    """Name an unknown argument, and not its value: it may be a secret whose name is misspelt."""
    import difflib  # here: importing the core should cost little

    near = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
    return (
        f"the {barrier_type} barrier has no argument {shown(name)[1:-1]}; {hint} "
        f"(see `barrier info {barrier_type}`)"
    )
