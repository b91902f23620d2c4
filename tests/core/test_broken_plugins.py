"""Distributions that are broken: each costs only itself, is named, and can be mended."""

from __future__ import annotations

import json

import pytest

import barrier_core
from barrier_core import CONTRACT_VERSION, Barrier, BarrierPluginError, create_barrier
from barrier_core.cli import list_command
from barrier_core.cli.inventory import all_backends
from barrier_core.discovery.known_backends import CORE
from barrier_core.discovery.registry import Registry
from tests.core.conftest import WORKING_BACKEND, FailingFinder, Site

# --- broken distributions ------------------------------------------------------------------------

BROKEN = {
    "its module cannot be imported": (
        "needy:Backend",
        "import a_library_that_is_not_there",
        ["cannot be loaded", "ModuleNotFoundError", "a_library_that_is_not_there"],
    ),
    "its module is not there": (
        "absent:Backend",
        "",
        ["cannot be loaded", "ModuleNotFoundError", "absent"],
    ),
    "its module fails": (
        "failing:Backend",
        "1 / 0",
        ["cannot be loaded", "ZeroDivisionError"],
    ),
    "its module ends the process": (
        "leaving:Backend",
        "import sys; sys.exit('no licence')",
        ["cannot be loaded", "SystemExit: no licence"],
    ),
    "its class cannot be made": (
        "unmade:Backend",
        "class Parent:\n"
        "    def __init_subclass__(cls): raise TypeError('not on this machine')\n"
        "class Backend(Parent): pass",
        ["cannot be loaded", "TypeError: not on this machine"],
    ),
    "its class cannot be asked": (
        "mute:Backend",
        "class Mute(type):\n"
        "    def __getattr__(cls, name): raise OSError('no licence server')\n"
        "class Backend(metaclass=Mute): pass",
        ["cannot be used", "OSError: no licence server"],
    ),
    "its entry point names nothing": (
        "empty:Backend",
        "",
        ["cannot be loaded", "AttributeError", "Backend"],
    ),
    "its entry point names a module": (
        "module",
        "",
        ["is not a barrier class: it has no execute_barrier()"],
    ),
    "its class is no barrier": (
        "other:Backend",
        "class Backend: pass",
        ["is not a barrier class: it has no execute_barrier()"],
    ),
    "its class is abstract": (
        "abstract:Backend",
        "from barrier_core import Barrier\nclass Backend(Barrier): barrier_type = 'broken'",
        ["is abstract: it must write _wait"],
    ),
    "its module ends a generator": (
        "ended:Backend",
        "raise GeneratorExit('as a coroutine does')",
        ["cannot be loaded", "GeneratorExit: as a coroutine does"],
    ),
    "its class declares a capability by name": (
        "wordy:Backend",
        WORKING_BACKEND.format(name="Backend", type="broken") + "    capabilities = 'abort'\n",
        ["has capabilities = 'abort', which must be a Capability"],
    ),
    "its class has another name": (
        "renamed:Backend",
        WORKING_BACKEND.format(name="Backend", type="brokne"),
        ["barrier_type is 'brokne'; the two must be equal"],
    ),
    "its class has no name": (
        "unnamed:Backend",
        "class Backend:\n def execute_barrier(self): pass",
        ["barrier_type is None; the two must be equal"],
    ),
    "it is built for a newer contract": (
        "newer:Backend",
        "class Backend:\n contract_version = 7",
        [
            f"version 7 of the barrier contract, and the installed {CORE} has version",
            f"has version {CONTRACT_VERSION}: upgrade {CORE}, or install an older barrier-broken",
        ],
    ),
    "it is built for an older contract": (
        "older:Backend",
        WORKING_BACKEND.format(name="Backend", type="broken") + "    contract_version = 0\n",
        [
            f"version 0 of the barrier contract, and the installed {CORE} has version",
            f"has version {CONTRACT_VERSION}: upgrade barrier-broken, or install an older {CORE}",
        ],
    ),
    "it is built for a contract without a number": (
        "odd:Backend",
        WORKING_BACKEND.format(name="Backend", type="broken") + "    contract_version = '1.0'\n",
        ["has contract_version = '1.0', which must be a whole number"],
    ),
}


@pytest.mark.parametrize(("value", "source", "fragments"), BROKEN.values(), ids=BROKEN)
def test_a_broken_distribution_costs_only_itself_and_is_named(
    site: Site, registry: Registry, value: str, source: str, fragments: list[str]
) -> None:
    module = value.partition(":")[0]
    modules = {} if module == "absent" else {module: source}
    site.install("barrier-broken", {"broken": value}, "2.3", modules)
    site.install_backend("alpha")

    assert registry.names() == ["alpha", "broken"]
    with pytest.raises(BarrierPluginError) as raised:
        registry.get("broken")

    message = str(raised.value)
    assert f"entry point 'broken' = '{value}' of barrier-broken 2.3" in message
    assert [fragment for fragment in fragments if fragment not in message] == []
    assert isinstance(raised.value, ImportError)
    assert issubclass(registry.get("alpha"), Barrier)
    working, broken = all_backends(registry)
    assert (working.name, working.state) == ("alpha", "ok")
    assert (broken.name, broken.version, broken.reason) == ("broken", "2.3", message)


def install_all_kinds(site: Site) -> None:
    """Install everything that can be wrong, and what works beside it."""
    for number, (value, source, _) in enumerate(BROKEN.values()):
        module = value.partition(":")[0]
        modules = {} if module == "absent" else {module: source}
        site.install(f"barrier-broken-{number}", {f"broken_{number}": value}, modules=modules)
    site.install("unrelated", "[console_scripts]\nthis is no entry point\n")
    site.install("with-an-at", {"name@elsewhere": "fine:Backend"})
    site.install("timeless", {"timeless": "nowhere:Backend"}, version=None)
    site.install_backend("claimed", "first")
    site.install_backend("claimed", "second")
    site.install("twice-by-itself", "[barriers]\nown = one:Backend\nown = two:Backend\n")
    site.install_backend("healthy")


def test_all_kinds_of_broken_distributions_at_once_do_not_hide_the_working_one(
    site: Site, registry: Registry
) -> None:
    install_all_kinds(site)

    listed = all_backends(registry)

    assert [backend.name for backend in listed if backend.state == "ok"] == [
        "claimed@first",
        "claimed@second",
        "healthy",
    ]
    broken = {backend.name for backend in listed if backend.reason}
    assert {"name@elsewhere", "timeless", "own@twice-by-itself"} < broken
    assert len(broken) == len(BROKEN) + 3


def test_barrier_list_tells_why_create_barrier_refuses_each_of_them(
    globally: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    install_all_kinds(globally)
    with pytest.raises(SystemExit):
        list_command.command(["--json"])
    listed = json.loads(capsys.readouterr().out)
    broken = [backend for backend in listed if backend["state"] == "broken"]

    for backend in broken:
        with pytest.raises(BarrierPluginError) as raised:
            create_barrier(backend["name"], global_rank=0, global_world_size=1)
        message = str(raised.value)
        assert message == backend["reason"]
        assert "entry point '" in message
        assert f" of {backend['distribution']} " in message
        words = ("Error: ", "SystemExit: ", "GeneratorExit: ")
        assert (raised.value.__cause__ is not None) == any(word in message for word in words)

    assert len(broken) == len(BROKEN) + 3
    create_barrier("healthy", global_rank=0, global_world_size=1).execute_barrier()


def test_a_name_with_an_at_is_refused_with_the_reason(site: Site, registry: Registry) -> None:
    site.install("with-an-at", {"name@elsewhere": "fine:Backend"})

    with pytest.raises(BarrierPluginError, match=r"of with-an-at 1\.0 cannot be used: '@' stands"):
        registry.get("name@elsewhere")


def test_a_distribution_that_claims_a_name_twice_is_named(site: Site, registry: Registry) -> None:
    site.install("untidy", "[barriers]\nown = one:Backend\nown = two:Backend\n")

    with pytest.raises(BarrierPluginError, match=r"claimed twice.*Repair or uninstall untidy$"):
        registry.get("own")


# --- nothing that failed is remembered -----------------------------------------------------------


def test_a_load_that_failed_is_tried_again(site: Site, registry: Registry) -> None:
    site.install("barrier-alpha", {"alpha": "mended:Backend"}, modules={"mended": "1 / 0"})
    with pytest.raises(BarrierPluginError, match="ZeroDivisionError"):
        registry.get("alpha")
    repaired = WORKING_BACKEND.format(name="Backend", type="alpha")
    (site.path / "mended.py").write_text(repaired)

    assert registry.get("alpha").__module__ == "mended"


def test_a_module_that_was_missing_is_found_after_a_refresh(site: Site, registry: Registry) -> None:
    site.install("barrier-alpha", {"alpha": "late:Backend"})
    with pytest.raises(BarrierPluginError, match="No module named 'late'"):
        registry.get("alpha")
    (site.path / "late.py").write_text(WORKING_BACKEND.format(name="Backend", type="alpha"))

    registry.refresh()

    assert registry.get("alpha").__module__ == "late"


def test_a_scan_that_failed_is_done_again(
    site: Site, registry: Registry, finder: FailingFinder
) -> None:
    site.install_backend("alpha")
    with pytest.raises(BarrierPluginError, match="OSError: the package server does not answer"):
        registry.names()

    finder.mended = True

    assert registry.names() == ["alpha"]


def test_a_module_that_cannot_be_imported_says_what_to_do_and_keeps_the_cause(
    site: Site, registry: Registry
) -> None:
    site.install("barrier-broken", {"broken": "absent:Backend"})

    with pytest.raises(BarrierPluginError) as raised:
        registry.get("broken")

    assert "Repair or uninstall barrier-broken" in str(raised.value)
    assert "BARRIER_PLUGINS_BLOCK=broken" in str(raised.value)
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


# --- the version of the core ---------------------------------------------------------------------


def test_a_plugin_for_a_later_core_is_refused_before_it_is_imported(
    site: Site, registry: Registry
) -> None:
    module = WORKING_BACKEND.format(name="Backend", type="modern") + "import gone_since\n"
    entry_points = {"modern": "modern_module:Backend"}
    site.install(
        "barrier-modern",
        entry_points,
        modules={"modern_module": module},
        requires="barrier-core>=99.5",
    )

    with pytest.raises(BarrierPluginError) as refused:
        registry.get("modern")

    assert "of barrier-modern 1.0 cannot be loaded: it needs barrier-core>=99.5, and " in str(
        refused.value
    )
    assert f"version {barrier_core.__version__} is installed" in str(refused.value)
    assert str(refused.value).endswith("pip install -U 'barrier-core>=99.5'")


@pytest.mark.parametrize(
    "requires",
    [
        "barrier-core>=0.1",
        "Barrier_Core",
        "barrier-core[test]>=99; extra == 'test'",
        "barrier-core>=99; python_version < '3'",
        "click>=99",
        "not a requirement at all",
        None,
    ],
)
def test_any_other_requirement_is_not_the_cores_to_check(
    site: Site, registry: Registry, requires: str | None
) -> None:
    module = WORKING_BACKEND.format(name="Backend", type="modern")
    entry_points = {"modern": "modern_module:Backend"}
    site.install(
        "barrier-modern", entry_points, modules={"modern_module": module}, requires=requires
    )

    assert registry.get("modern").__name__ == "Backend"
