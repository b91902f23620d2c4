"""Which barrier to make, from code, a file or the environment; and making it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from barrier_core.contract import Barrier
from barrier_core.discovery.arguments import bind_arguments
from barrier_core.discovery.registry import registry
from barrier_core.errors import (
    BarrierConfigError,
    BarrierError,
    BarrierPluginError,
    BarrierSetupError,
    describe_exception,
)
from barrier_core.exhaustion import exhausted
from barrier_core.files import read_file
from barrier_core.hooks import notify
from barrier_core.launcher import RankInfo
from barrier_core.secret import Secret
from barrier_core.shown import shown

_FILE_VARIABLE = "BARRIER_CONFIG"
_TYPE_VARIABLE = "BARRIER_TYPE"
_ARGUMENT_VARIABLE = "BARRIER_ARG_"
_HIDDEN = Secret("")


class _Section(msgspec.Struct, forbid_unknown_fields=True):
    """The ``[barrier]`` table of a config file."""

    barrier_type: str | None = None
    barrier_args: dict[str, Any] = {}


class _File(msgspec.Struct):
    """A config file: other tables than ``[barrier]`` are other people's."""

    barrier: _Section


msgspec.json.Decoder(_File)  # looks into the classes now; two threads at once would crash


@dataclass(repr=False)
class BarrierConfig:
    """The name of a backend and its constructor arguments.

    Its ``repr`` shows numbers and switches alone: any text may be a secret.

    Args:
        barrier_type: The backend's name, such as ``tcp_store``; ``name@distribution`` chooses
            where two distributions claim a name. None means no barrier.
        barrier_args: Arguments for the backend's constructor; `barrier info TYPE` lists them.
    """

    barrier_type: str | None = None
    barrier_args: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], environ: Mapping[str, str] | None = None
    ) -> BarrierConfig:
        """Read a TOML or JSON file (by its suffix); the environment overrides what it says.

        ``BARRIER_CONFIG`` names another file, ``BARRIER_TYPE`` another type,
        ``BARRIER_ARG_<NAME>`` one argument (``BARRIER_ARG_TIMEOUT_SECS=30``).

        Raises:
            BarrierConfigError: The file is missing, unreadable, neither TOML nor JSON, or has the
                wrong shape.
        """
        environ = os.environ if environ is None else environ
        if environ.get(_FILE_VARIABLE):
            return cls.from_environment(environ)
        return _read(path, "")._overridden(environ)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> BarrierConfig:
        """Read the environment alone: ``BARRIER_CONFIG``, ``BARRIER_TYPE``, ``BARRIER_ARG_<NAME>``.

        Raises:
            BarrierConfigError: As in `from_file`, for the file that ``BARRIER_CONFIG`` names.
        """
        environ = os.environ if environ is None else environ
        path = environ.get(_FILE_VARIABLE)
        return (_read(path, f" (named by {_FILE_VARIABLE})") if path else cls())._overridden(
            environ
        )

    def __repr__(self) -> str:
        # Which text is a secret is known only where the backend is loaded.
        given = self.barrier_args if isinstance(self.barrier_args, Mapping) else {}
        arguments = {
            name: value if value is None or isinstance(value, bool | int | float) else _HIDDEN
            for name, value in given.items()
        }
        type_ = shown(self.barrier_type)
        return f"BarrierConfig(barrier_type={type_}, barrier_args={shown(arguments)})"

    def _overridden(self, environ: Mapping[str, str]) -> BarrierConfig:
        arguments = {
            name.removeprefix(_ARGUMENT_VARIABLE).lower(): value
            for name, value in environ.items()
            if name.startswith(_ARGUMENT_VARIABLE)
        }
        return BarrierConfig(
            environ.get(_TYPE_VARIABLE) or self.barrier_type, {**self.barrier_args, **arguments}
        )


def create_barrier_from_config(
    config: BarrierConfig, rank_info: RankInfo | None = None
) -> Barrier | None:
    """Make the barrier that a configuration names; None where it names none.

    Args:
        config: Type name and arguments.
        rank_info: Where rank and world size come from, unless they are among the arguments; the
            launcher's environment if not given.

    Raises:
        UnknownBarrierTypeError: No backend has this name.
        BarrierPluginError: The backend is installed but broken.
        BarrierConfigError: The arguments do not fit.
        BarrierSetupError: The barrier cannot be set up.

    Whatever else the backend's constructor raises becomes one of the last three, with what it has
    raised as its cause.
    """
    if not isinstance(config, BarrierConfig):
        raise BarrierConfigError(f"{shown(config)} must be a BarrierConfig")
    if config.barrier_type is None:
        return None
    if not isinstance(config.barrier_type, str):
        raise BarrierConfigError(f"barrier_type={shown(config.barrier_type)} must be a name")
    if not isinstance(config.barrier_args, Mapping):
        raise BarrierConfigError(
            f"barrier_args is a {type(config.barrier_args).__name__}, and must be a mapping from "
            "names to values"
        )
    backend = registry.get(config.barrier_type)
    arguments = bind_arguments(backend, config.barrier_args, rank_info)
    # First, as it may take a while: Ctrl-C then leaves no barrier behind that nobody closes.
    registry.load_observers()
    barrier = _make(backend, config.barrier_type, arguments)
    notify("barrier_created", barrier=barrier)
    return barrier


def create_barrier(
    barrier_type: str, /, rank_info: RankInfo | None = None, **barrier_args: Any
) -> Barrier:
    """Make a barrier by name; see `create_barrier_from_config` for arguments and errors."""
    barrier = create_barrier_from_config(BarrierConfig(barrier_type, barrier_args), rank_info)
    if barrier is None:
        raise BarrierConfigError("create_barrier needs the name of a barrier type, not None")
    return barrier


def _make(backend: type, barrier_type: str, arguments: dict[str, Any]) -> Barrier:
    """Call a backend's constructor, which may be anybody's code."""
    try:
        barrier: Barrier = backend(**arguments)
    except BarrierError:
        raise
    except Exception as error:
        what = f"the {barrier_type} barrier cannot be made"
        text = describe_exception(error)
        for value in arguments.values():
            if isinstance(value, Secret):
                text = text.replace(value.reveal(), "***")
        # With its traceback, unless that would show what is hidden here.
        cause = error if text == f"{type(error).__name__}: {error}" else None
        if isinstance(error, ValueError | TypeError):
            raise BarrierConfigError(
                f"{what}: {text}. Check barrier_args (see `barrier info {barrier_type}`)"
            ) from cause
        if isinstance(error, OSError | MemoryError):
            why = exhausted(error) or f"{text}. Check this host"
            raise BarrierSetupError(f"{what}: {why}") from cause
        raise BarrierPluginError(
            f"{what}: {text}. Its constructor must raise an error of barrier_core instead; ask its "
            "author"
        ) from cause
    return barrier


def _read(given: str | os.PathLike[str], named_by: str) -> BarrierConfig:
    try:
        name = os.fspath(given)
        path = Path(name)
    except Exception:  # no path, or an object that does not say which
        raise BarrierConfigError(f"{shown(given)} cannot be the path of a config file") from None
    where = f"config file {shown(name)[1:-1]}{named_by}"
    content = read_file(path, where)
    if path.suffix not in (".toml", ".json"):
        raise BarrierConfigError(f"{where} must end in .toml or .json, which says how to read it")
    try:
        if path.suffix == ".json":
            tree = msgspec.json.decode(content)
        else:
            tree = _toml_loads(content.decode())
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise BarrierConfigError(
            f"{where} is not valid {path.suffix[1:].upper()}: {error}"
        ) from None
    try:
        section = msgspec.convert(tree, _File).barrier
    except msgspec.ValidationError as error:
        raise BarrierConfigError(
            f"{where} has the wrong shape: {error}. Expected a table [barrier] with "
            "barrier_type (a name) and a table [barrier.barrier_args]"
        ) from None
    return BarrierConfig(section.barrier_type, section.barrier_args)


def _toml_loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)
