"""``barrier info TYPE``: one backend, and every option that its constructor takes."""

from __future__ import annotations

import inspect
from typing import Any

import click

from barrier_core.cli.exit_status import WrongUseError
from barrier_core.cli.inventory import Backend, one_backend
from barrier_core.cli.output import show, show_json
from barrier_core.discovery.arguments import Option, options_of
from barrier_core.discovery.registry import registry
from barrier_core.errors import BarrierError
from barrier_core.shown import shown, without_passwords


@click.command("info")
@click.argument("barrier_type", metavar="TYPE")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON object instead of text.")
@click.pass_context
def command(ctx: click.Context, barrier_type: str, as_json: bool) -> None:
    """Show one barrier TYPE and the options it takes.

    The exit status is 0; 1 if TYPE is installed but broken; and 2 if TYPE is unknown, two
    distributions claim it, or what is installed cannot be searched.
    """
    try:
        backend = one_backend(registry, barrier_type)
    except BarrierError as error:
        raise WrongUseError(str(error)) from error
    options = options_of(backend.loaded) if backend.loaded else []
    if as_json:
        show_json(
            {
                **backend.as_json(),
                "summary": _summary(backend),
                "options": [_option_as_json(option) for option in options],
            }
        )
    else:
        _show_backend(backend, options)
    ctx.exit(0 if backend.loaded else 1)


def _show_backend(backend: Backend, options: list[Option]) -> None:
    origin = f"{backend.distribution} {backend.version}".strip() or "registered by hand"
    show(f"{click.style(backend.name, bold=True)}  ({origin})  {backend.styled_state}")
    if backend.reason:
        show(backend.reason)
        return
    if _summary(backend):
        show(_summary(backend))
    show()
    show("Capabilities: " + (", ".join(backend.capabilities) or "none declared"))
    show()
    show("Options:" if options else "It takes no options.")
    for option in options:
        name, kind = click.style(option.name, bold=True), click.style(option.type_name, fg="cyan")
        show(f"  {name}: {kind}{_default_text(option)}")
        if option.description:
            show(f"      {option.description}")


def _default_text(option: Option) -> str:
    if option.required:
        return ", required"
    if option.default is inspect.Parameter.empty:
        return ", from the launcher"
    return f" = {shown(option.default)}"


def _option_as_json(option: Option) -> dict[str, Any]:
    default = None if option.default is inspect.Parameter.empty else option.default
    return {
        "name": option.name,
        "type": option.type_name,
        "required": option.required,
        "default": without_passwords(default) if isinstance(default, str) else default,
        "description": option.description,
    }


def _summary(backend: Backend) -> str:
    """Return the first paragraph of the class's own docstring, on one line."""
    documented = inspect.cleandoc((backend.loaded and backend.loaded.__doc__) or "")
    return " ".join(documented.split("\n\n")[0].split())
