"""A backend's options: read from its constructor, and checked against what a user gives."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from barrier_core.errors import BarrierConfigError
from barrier_core.ranks import RankInfo

_FROM_LAUNCHER = ("global_rank", "global_world_size")


@dataclass(frozen=True)
class Option:
    """One constructor parameter of a backend."""

    name: str
    annotation: Any
    default: Any
    """`inspect.Parameter.empty` where it must be given."""
    description: str

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
        return inspect.formatannotation(self.annotation).replace("typing.", "")


def options_of(backend: type) -> list[Option]:
    """Return the options of a backend, in the order of its constructor."""
    constructor = backend.__init__  # type: ignore[misc]  # the class decides what it accepts
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except Exception:
        # Annotations that cannot be resolved here (names imported for the type checker only) are
        # no reason to refuse the backend: its options go unchecked, as in torch.
        hints = {}
    options = []
    for name, parameter in list(inspect.signature(constructor).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.get(name, inspect.Parameter.empty)
        description = ""
        if typing.get_origin(annotation) is Annotated:
            annotation, *extras = typing.get_args(annotation)
            metas = [extra for extra in extras if isinstance(extra, msgspec.Meta)]
            description = " ".join(meta.description for meta in metas if meta.description)
        options.append(Option(name, annotation, parameter.default, description))
    return options


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
    signature = inspect.signature(backend.__init__)  # type: ignore[misc]  # as above
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    bound: dict[str, Any] = {}
    for name, value in args.items():
        if name in options:
            bound[name] = _convert(barrier_type, options[name], value)
        elif takes_any:
            bound[name] = value
        else:
            raise BarrierConfigError(_unknown(barrier_type, name, value, list(options)))
    wanted = [name for name in _FROM_LAUNCHER if name in options and name not in bound]
    if wanted:
        rank_info = rank_info or RankInfo.from_environment()
        bound.update({name: getattr(rank_info, name) for name in wanted})
    missing = [name for name, option in options.items() if option.required and name not in bound]
    if missing:
        raise BarrierConfigError(
            f"the {barrier_type} barrier needs {', '.join(missing)}: add to barrier_args"
            f" (see `barrier info {barrier_type}`)"
        )
    return bound


def _convert(barrier_type: str, option: Option, value: Any) -> Any:
    if option.annotation in (inspect.Parameter.empty, Any, object):
        return value
    try:
        # Not strict: the environment has only strings, and "600" for 600 is no mistake.
        return msgspec.convert(value, option.annotation, strict=False)
    except (msgspec.ValidationError, TypeError) as error:
        if _is_foreign(option.annotation):
            return value
        raise BarrierConfigError(
            f"{option.name}={value!r} does not fit the {barrier_type} barrier, which takes "
            f"{option.type_name}: {error}"
        ) from None


def _is_foreign(annotation: Any) -> bool:
    """Whether msgspec does not know the type, so that only the backend can judge the value."""
    try:
        msgspec.json.schema(annotation)
    except TypeError:
        return True
    return False


def _unknown(barrier_type: str, name: str, value: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
    return f"the {barrier_type} barrier has no argument {name} (given: {value!r}); {hint}"
