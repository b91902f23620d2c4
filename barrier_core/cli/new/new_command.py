"""``barrier new``: a plugin to start from, which works and passes its tests as it is."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from barrier_core.cli.output import show
from barrier_core.contract import CONTRACT_VERSION
from barrier_core.discovery.known_backends import KNOWN_BACKENDS, OWN_NAMES
from barrier_core.discovery.registry import registry

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@click.command("new")
@click.argument("name")
@click.option(
    "--store/--bare",
    "over_a_store",
    default=True,
    help="Build on a key-value store, with every guarantee of the engine (the default); or on the "
    "bare contract, where the infrastructure has a barrier of its own.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write it; barrier-NAME in the current directory if not given.",
)
def command(name: str, over_a_store: bool, directory: Path | None) -> None:
    """Write a new backend: the distribution barrier-NAME with the barrier type NAME.

    It can be installed, is listed by `barrier list`, and passes its tests before anything in it is
    edited.
    """
    _check(name)
    words = _words(name)
    directory = directory or Path(words["distribution"])
    if directory.exists() and any(directory.iterdir()):
        raise click.ClickException(f"{directory} is not empty; give another --directory")
    kind = "store" if over_a_store else "bare"
    for path, template in _contents(words["module"], kind).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_filled_in(template, words), encoding="utf-8")
        show(str(target))
    show(f"\nNext:\n  pip install -e '{directory}[test]'\n  barrier list\n  pytest {directory}")


def _check(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise click.BadParameter(
            f"{name!r} cannot be a barrier type: it is what users write in their config and part "
            "of a module's name, so lower-case letters, digits and single underscores, such as "
            "'my_store'",
            param_hint="NAME",
        )
    if name in registry.names() or name in {"core", *OWN_NAMES, *KNOWN_BACKENDS}:
        raise click.BadParameter(
            f"{name!r} is taken (see `barrier list`); choose another", param_hint="NAME"
        )


def _words(name: str) -> dict[str, str]:
    """Return what the templates have placeholders for."""
    return {
        "type": name,
        "distribution": f"barrier-{name.replace('_', '-')}",
        "module": f"barrier_{name}",
        "cls": "".join(word.capitalize() for word in name.split("_")) + "Barrier",
        "core_version": version("barrier-core"),
        "contract_version": str(CONTRACT_VERSION),
    }


def _contents(module: str, kind: str) -> dict[str, str]:
    """Return the template for each file; none for an empty one."""
    return {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": f"{kind}_backend.py",
        f"{module}/py.typed": "",
        "tests/test_contract.py": f"{kind}_contract.py",
    }


def _filled_in(template: str, words: dict[str, str]) -> str:
    if not template:
        return ""
    source = files("barrier_core.cli.new") / "templates" / f"{template}.tmpl"
    return Template(source.read_text(encoding="utf-8")).substitute(words)
