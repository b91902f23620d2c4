"""Finding, loading and classifying backends, with distributions that are really on disk."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import importlib_metadata
import pytest

import barrier_core
from barrier_core import (
    CONTRACT_VERSION,
    Barrier,
    BarrierConfigError,
    BarrierError,
    BarrierPluginError,
    UnknownBarrierTypeError,
)
from barrier_core.agreement.local import LocalBarrier
from barrier_core.cli.backends import all_backends
from barrier_core.discovery import FoundPlugin
from barrier_core.hookspecs import new_manager
from barrier_core.known_backends import CORE, KNOWN_BACKENDS, OWN_NAMES
from barrier_core.registry import Registry, RegistryView
from barrier_core.registry import registry as the_registry
from tests.core.conftest import WORKING_BACKEND, Site


class OneRank(Barrier):
    """A backend to register by hand."""

    barrier_type = "one_rank"

    def __init__(self) -> None:
        super().__init__(0, 1)

    def _wait(self, timeout_secs: float, tag: str) -> None:
        pass


class OfTorchsContract:
    """What torch asks of a barrier: a name and one method."""

    barrier_type = "of_torch"

    def execute_barrier(self) -> None:
        pass


class Abstract(Barrier):
    """A backend whose author forgot the one method it must write."""

    barrier_type = "abstract"


class NotABarrier:
    barrier_type = "not_a_barrier"


class Nameless:
    def execute_barrier(self) -> None:
        pass


# --- what is installed ---------------------------------------------------------------------------


def test_what_is_installed_is_found_sorted_and_not_imported(site: Site, registry: Registry) -> None:
    site.install_backend("zeta")
    site.install_backend("alpha")

    assert registry.names() == ["alpha", "zeta"]
    assert registry.found() == [
        FoundPlugin("alpha", "barrier-alpha", "1.0", "module_of_alpha:Backend"),
        FoundPlugin("zeta", "barrier-zeta", "1.0", "module_of_zeta:Backend"),
    ]
    assert not site.imported("alpha")
    assert not site.imported("zeta")


def test_asking_for_one_imports_that_one_only(site: Site, registry: Registry) -> None:
    site.install_backend("alpha")
    site.install_backend("zeta")

    backend = registry.get("zeta")

    assert backend.__module__ == "module_of_zeta"
    assert site.imported("zeta")
    assert not site.imported("alpha")


def test_what_was_loaded_is_held(site: Site, registry: Registry) -> None:
    site.install_backend("alpha")

    assert registry.get("alpha") is registry.get("alpha")


def test_what_was_unregistered_is_loaded_again(site: Site, registry: Registry) -> None:
    site.install_backend("alpha")
    backend = registry.get("alpha")

    registry.unregister("alpha")

    assert registry.get("alpha") is backend


def test_what_is_installed_later_appears_after_a_refresh(site: Site, registry: Registry) -> None:
    assert registry.names() == []
    site.install_backend("alpha")
    assert registry.names() == []

    registry.refresh()

    assert registry.names() == ["alpha"]


def test_a_distribution_without_a_version_is_found(site: Site, registry: Registry) -> None:
    module = WORKING_BACKEND.format(name="Backend", type="alpha")
    site.install("timeless", {"alpha": "timeless:Backend"}, None, {"timeless": module})

    (found,) = registry.found()

    assert found.version == ""
    assert str(found) == ("entry point 'alpha' = 'timeless:Backend' of timeless (no version)")
    assert registry.get("alpha").__module__ == "timeless"


def test_a_distribution_without_metadata_is_found_by_its_place(
    site: Site, registry: Registry
) -> None:
    site.install("nameless", {"alpha": "nowhere:Backend"})
    (site.path / "nameless-1.0.dist-info" / "METADATA").unlink()

    (found,) = registry.found()

    assert str(site.path) in found.distribution
    assert found.version == ""


def test_of_one_distribution_on_the_path_twice_the_first_counts(
    site: Site, registry: Registry
) -> None:
    site.install("Some_Plugin", {"new": "new:Backend"}, version="2.0")
    site.install("some-plugin", {"old": "old:Backend"}, folder=site.shadowed)

    assert registry.names() == ["new"]


def test_a_shadowed_copy_offers_nothing_even_where_the_first_has_no_plugins(
    site: Site, registry: Registry
) -> None:
    site.install("some-plugin", "[console_scripts]\nsome = new:main\n", version="2.0")
    site.install("some-plugin", {"old": "old:Backend"}, folder=site.shadowed)

    assert registry.names() == []


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(b"[console_scripts]\nthis is no entry point\n", id="no equals sign"),
        pytest.param(b"[console_scripts]\ncommand = not a module\n", id="no module"),
        pytest.param(b"\xff\xfe", id="not text"),
    ],
)
def test_malformed_metadata_of_an_unrelated_distribution_costs_only_itself(
    site: Site, registry: Registry, malformed: bytes
) -> None:
    site.install_backend("alpha")
    site.install("unrelated", "")
    (site.path / "unrelated-1.0.dist-info" / "entry_points.txt").write_bytes(malformed)

    assert registry.names() == ["alpha"]
    assert issubclass(registry.get("alpha"), Barrier)


def test_a_distribution_that_is_skipped_is_named_in_the_log(
    site: Site, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("unrelated", "[console_scripts]\nthis is no entry point\n")

    assert registry.names() == []

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("barrier_core", logging.WARNING)
    assert "skipping unrelated, whose entry_points.txt is malformed" in record.message


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


def test_all_kinds_of_broken_distributions_at_once_do_not_hide_the_working_one(
    site: Site, registry: Registry
) -> None:
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

    listed = all_backends(registry)

    assert [backend.name for backend in listed if backend.state == "ok"] == [
        "claimed@first",
        "claimed@second",
        "healthy",
    ]
    broken = {backend.name for backend in listed if backend.reason}
    assert {"name@elsewhere", "timeless", "own@twice-by-itself"} < broken
    assert len(broken) == len(BROKEN) + 3


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


class FailingFinder:
    """Somebody else's way of finding distributions, which cannot be used at first."""

    mended = False

    def find_spec(self, *_: object) -> None:
        """No module is found here."""

    def find_distributions(self, *_: object) -> Iterable[importlib_metadata.Distribution]:
        if not self.mended:
            raise OSError("the package server does not answer")
        return []


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> FailingFinder:
    finder = FailingFinder()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    return finder


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


# --- the version of the contract -----------------------------------------------------------------


class OfThisContract(OneRank):
    barrier_type = "of_this_contract"
    contract_version: ClassVar[int] = 1


class OfAnotherContract(OneRank):
    barrier_type = "of_another_contract"
    contract_version: ClassVar[int] = 2


@pytest.mark.usefixtures("site")
def test_a_class_for_this_version_of_the_contract_is_used(registry: Registry) -> None:
    assert OfThisContract.contract_version == CONTRACT_VERSION

    registry.register(OfThisContract)

    assert registry.get("of_this_contract") is OfThisContract


@pytest.mark.usefixtures("site")
def test_a_class_for_another_version_is_not_registered_by_hand(registry: Registry) -> None:
    with pytest.raises(BarrierConfigError) as raised:
        registry.register(OfAnotherContract)

    assert "is built for version 2 of the barrier contract" in str(raised.value)
    assert f"has version 1: upgrade {CORE}, or install an older backend" in str(raised.value)


def test_a_class_does_not_inherit_a_version_from_the_contract() -> None:
    assert not hasattr(Barrier, "contract_version")


# --- the core's own names ------------------------------------------------------------------------


@pytest.fixture
def usurper(site: Site) -> Site:
    """A site in which the core is installed, and another distribution that claims its name."""
    site.install("barrier_core", {"local": "barrier_core.agreement.local:LocalBarrier"})
    site.install_backend("local", "usurper")
    return site


def test_a_name_of_the_cores_own_cannot_be_taken_over(usurper: Site, registry: Registry) -> None:
    assert registry.get("local") is LocalBarrier
    assert registry.names() == ["local"]

    with pytest.raises(BarrierPluginError) as raised:
        registry.get("local@usurper")

    assert "of usurper 1.0 cannot be used: the barrier type 'local' is one of" in str(raised.value)
    assert "Uninstall usurper" in str(raised.value)
    assert not usurper.imported("local")


@pytest.mark.usefixtures("usurper")
def test_who_tries_to_take_over_is_listed_as_broken(registry: Registry) -> None:
    states = {backend.name: backend.state for backend in all_backends(registry)}

    assert states == {"local": "ok", "local@usurper": "broken"}


def test_to_block_the_core_does_not_let_another_take_over(
    usurper: Site, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "local@barrier_core")

    with pytest.raises(BarrierPluginError, match="cannot be used: the barrier type 'local'"):
        registry.get("local")
    assert not usurper.imported("local")


@pytest.mark.usefixtures("site")
def test_a_name_of_the_cores_own_cannot_be_registered_by_hand(registry: Registry) -> None:
    with pytest.raises(BarrierConfigError, match="'local' is one of barrier-core's own"):
        registry.register(OneRank, "local")

    assert registry.register(LocalBarrier) is LocalBarrier


def test_the_cores_own_names_are_those_that_it_brings() -> None:
    entry_points = importlib_metadata.distribution(CORE).entry_points

    assert {found.name for found in entry_points if found.group == "barriers"} == OWN_NAMES


# --- two distributions, one name -----------------------------------------------------------------


@pytest.fixture
def rivals(site: Site) -> Site:
    """Two distributions that both claim the type ``alpha``."""
    for name in ("first", "second"):
        source = WORKING_BACKEND.format(name="Backend", type="alpha")
        site.install(name, {"alpha": f"{name}_module:Backend"}, modules={f"{name}_module": source})
    return site


@pytest.mark.usefixtures("rivals")
def test_a_name_claimed_twice_is_an_error_that_names_both(registry: Registry) -> None:
    assert registry.names() == ["alpha"]
    with pytest.raises(BarrierPluginError) as raised:
        registry.get("alpha")

    message = str(raised.value)
    assert "claimed twice" in message
    assert "'first_module:Backend' of first 1.0" in message
    assert "'second_module:Backend' of second 1.0" in message
    assert 'barrier_type = "alpha@first"' in message


@pytest.mark.usefixtures("rivals")
def test_of_two_that_claim_a_name_the_user_picks_one(registry: Registry) -> None:
    assert registry.get("alpha@second").__module__ == "second_module"
    assert registry.get("alpha@First").__module__ == "first_module"  # as pip reads it
    assert registry.names() == ["alpha"]


@pytest.mark.usefixtures("rivals")
def test_picking_a_distribution_that_does_not_claim_the_name_is_an_unknown_type(
    registry: Registry,
) -> None:
    with pytest.raises(UnknownBarrierTypeError, match=r"'alpha@third'.*Did you mean 'alpha'"):
        registry.get("alpha@third")


def test_the_long_form_of_a_name_claimed_once_is_the_same_class(
    site: Site, registry: Registry
) -> None:
    site.install_backend("alpha")

    assert registry.get("alpha") is registry.get("alpha@barrier-alpha")
    assert registry.names() == ["alpha"]


def test_the_distribution_of_a_name_is_told_without_importing_it(
    site: Site, registry: Registry
) -> None:
    site.install_backend("alpha")
    registry.register(OneRank)

    installed, by_hand = registry.plugin_of("alpha"), registry.plugin_of("one_rank")

    assert installed is not None
    assert installed.distribution == "barrier-alpha"
    assert not site.imported("alpha")
    assert by_hand is None


# --- allow and block lists -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BARRIER_PLUGINS", "alpha"),
        ("BARRIER_PLUGINS", " alpha , gamma "),
        ("BARRIER_PLUGINS_BLOCK", "zeta"),
        ("BARRIER_PLUGINS_BLOCK", "gamma,zeta"),
    ],
)
def test_what_the_lists_leave_out_is_never_imported(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    site.install_backend("alpha")
    site.install_backend("zeta")
    monkeypatch.setenv(variable, value)

    assert registry.names() == ["alpha"]
    with pytest.raises(UnknownBarrierTypeError) as raised:
        registry.get("zeta")

    names = ",".join(name.strip() for name in value.split(","))
    objection = f"'zeta' is installed, but {variable}={names} leaves it out"
    assert str(raised.value).endswith(objection)
    assert not site.imported("zeta")


@pytest.mark.parametrize(
    ("lists", "objection"),
    [
        ({"allow": ["alpha"]}, "allow=alpha"),
        ({"allow": []}, "allow="),
        ({"block": ["zeta"]}, "block=zeta"),
        ({"block": ["zeta@barrier-zeta"]}, "block=zeta@barrier-zeta"),
        ({"allow": ["alpha", "zeta"], "block": ["zeta"]}, "block=zeta"),
    ],
)
def test_what_code_leaves_out_is_never_imported(
    site: Site, lists: dict[str, Any], objection: str
) -> None:
    site.install_backend("alpha")
    site.install_backend("zeta")
    registry = Registry(new_manager(), **lists)

    assert registry.names() == ([] if lists.get("allow") == [] else ["alpha"])
    for asked in ("zeta", "zeta@barrier-zeta"):
        with pytest.raises(UnknownBarrierTypeError) as raised:
            registry.get(asked)
        assert str(raised.value).endswith(f"'zeta' is installed, but {objection} leaves it out")
    all_backends(registry)
    assert not site.imported("zeta")


def test_code_may_change_its_mind(site: Site, registry: Registry) -> None:
    site.install_backend("alpha")
    site.install_backend("zeta")

    registry.restrict(block=["alpha"])
    assert registry.names() == ["zeta"]

    registry.restrict()
    assert registry.names() == ["alpha", "zeta"]


def test_a_backend_must_pass_the_lists_of_code_and_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alpha", "beta", "gamma"):
        site.install_backend(name)
    monkeypatch.setenv("BARRIER_PLUGINS", "alpha,beta")

    assert Registry(new_manager(), allow=["beta", "gamma"]).names() == ["beta"]


def test_what_is_both_allowed_and_blocked_is_blocked(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_backend("alpha")
    monkeypatch.setenv("BARRIER_PLUGINS", "alpha")
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "alpha")

    assert registry.names() == []


@pytest.mark.usefixtures("rivals")
def test_of_two_that_claim_a_name_one_can_be_blocked(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "alpha@first")

    assert registry.get("alpha").__module__ == "second_module"


# --- unknown names -------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_an_unknown_name_is_told_with_those_that_exist(registry: Registry) -> None:
    registry.register(OneRank)

    with pytest.raises(UnknownBarrierTypeError) as raised:
        registry.get("elsewhere")

    # The words of torch's own registry, which callers may look for.
    assert str(raised.value) == "Unknown barrier type: 'elsewhere'. Available types: ['one_rank']"
    assert isinstance(raised.value, ValueError)


@pytest.mark.usefixtures("site")
def test_an_unknown_name_is_told_with_the_near_match(registry: Registry) -> None:
    registry.register(OneRank)

    with pytest.raises(UnknownBarrierTypeError, match=r"'one_rnak'.*Did you mean 'one_rank'\?$"):
        registry.get("one_rnak")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(("name", "distribution"), KNOWN_BACKENDS.items())
def test_a_known_backend_that_is_not_installed_is_told_with_the_command(
    registry: Registry, name: str, distribution: str
) -> None:
    for asked in (name, name[:-1]):
        with pytest.raises(UnknownBarrierTypeError, match=f"{name!r}.*pip install {distribution}$"):
            registry.get(asked)


# --- registering by hand -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [OneRank, OfTorchsContract])
@pytest.mark.usefixtures("site")
def test_a_class_is_registered_under_its_own_name(registry: Registry, backend: type) -> None:
    assert registry.register(backend) is backend

    assert registry.get(backend.barrier_type) is backend  # type: ignore[attr-defined]
    assert registry.names() == [backend.barrier_type]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("site")
def test_a_class_is_registered_under_a_given_name(registry: Registry) -> None:
    registry.register(Nameless, "given")

    assert registry.get("given") is Nameless


@pytest.mark.usefixtures("site")
def test_registering_a_class_again_changes_nothing(registry: Registry) -> None:
    registry.register(OneRank)
    registry.register(OneRank)

    assert registry.names() == ["one_rank"]


@pytest.mark.usefixtures("site")
def test_a_class_that_is_unregistered_is_unknown(registry: Registry) -> None:
    registry.register(OneRank)
    registry.unregister("one_rank")
    registry.unregister("one_rank")

    with pytest.raises(UnknownBarrierTypeError):
        registry.get("one_rank")


REFUSED = {
    "a class without execute_barrier": (NotABarrier, None, ["NotABarrier", "execute_barrier()"]),
    "an abstract class": (Abstract, None, ["Abstract", "is abstract: it must write _wait"]),
    "a class without a name": (Nameless, None, ["Nameless", "no barrier_type", "set the class"]),
    "something that is no class": (OneRank.close, "one", ["close", "not a barrier class"]),
    "a name with an @": (OneRank, "one@rank", ["'one@rank'", "'@'", "distribution"]),
    "a class that has a name": (OneRank, "other", ["'other'", "registered as 'one_rank'"]),
    "another class's name": (OfTorchsContract, "one_rank", ["'one_rank' is taken", "OneRank"]),
    "an installed one's name": (OfTorchsContract, "alpha", ["'alpha' is taken", "barrier-alpha"]),
}


@pytest.mark.parametrize(("backend", "name", "fragments"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_registered_is_refused_with_the_reason(
    site: Site, registry: Registry, backend: type, name: str | None, fragments: list[str]
) -> None:
    site.install_backend("alpha")
    registry.register(OneRank)

    with pytest.raises(BarrierConfigError) as raised:
        registry.register(backend, name)

    assert [fragment for fragment in fragments if fragment not in str(raised.value)] == []
    assert registry.names() == ["alpha", "one_rank"]


# --- the mapping under torch's name --------------------------------------------------------------


def test_the_mapping_lists_without_importing_and_looks_up_by_importing(
    site: Site, registry: Registry
) -> None:
    site.install_backend("alpha")
    registry.register(OneRank)
    view = RegistryView(registry)

    assert list(view) == ["alpha", "one_rank"]
    assert len(view) == 2
    assert "alpha" in view
    assert "beta" not in view
    assert repr(view) == "BARRIER_REGISTRY(alpha, one_rank)"
    assert not site.imported("alpha")

    assert view["alpha"] is registry.get("alpha")
    assert site.imported("alpha")


@pytest.mark.usefixtures("site")
def test_the_mapping_raises_what_a_mapping_raises(registry: Registry) -> None:
    view = RegistryView(registry)

    with pytest.raises(KeyError, match="Unknown barrier type: 'beta'"):
        view["beta"]
    assert view.get("beta") is None


def test_the_mapping_does_not_hide_that_a_backend_is_broken(site: Site, registry: Registry) -> None:
    site.install("barrier-broken", {"broken": "absent:Backend"})

    with pytest.raises(BarrierError, match="absent"):
        RegistryView(registry)["broken"]


@pytest.mark.parametrize(
    ("name", "barrier_type"), [("DistBarrier", "dist_barrier"), ("TCPStoreBarrier", "tcp_store")]
)
def test_torchs_own_class_names_work_where_the_plugin_is_installed(
    globally: Site, name: str, barrier_type: str
) -> None:
    with pytest.raises(ImportError, match=f"{name} is not installed.*pip install barrier-"):
        getattr(barrier_core, name)

    globally.install_backend(barrier_type)
    the_registry.refresh()

    assert getattr(barrier_core, name).__module__ == f"module_of_{barrier_type}"


# --- observers -----------------------------------------------------------------------------------

OBSERVERS = """
from barrier_core import hookimpl

class Observer:
    made = []

    def __init__(self):
        self.made.append(self)

    @hookimpl
    def barrier_created(self, barrier):
        pass

class Failing:
    def __init__(self):
        raise OSError("no trace directory")
"""


def test_installed_observers_are_made_once(site: Site) -> None:
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    manager = new_manager()
    registry = Registry(manager)

    registry.load_observers()
    registry.load_observers()

    (listening,) = manager.hook.barrier_created.get_hookimpls()
    assert listening.plugin_name == "observer watch"
    assert registry.names() == []


def watching(site: Site) -> Registry:
    """A registry where one observer is installed."""
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    return Registry(new_manager(), allow=["alpha"], block=["watch"])


@pytest.mark.parametrize(
    ("variable", "value"), [("BARRIER_OBSERVERS", "other"), ("BARRIER_OBSERVERS_BLOCK", "watch")]
)
def test_observers_that_the_environment_leaves_out_are_not_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    registry = watching(site)
    monkeypatch.setenv(variable, value)

    registry.load_observers()

    assert "observers" not in sys.modules


def test_the_lists_for_backends_are_not_for_observers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = watching(site)
    monkeypatch.setenv("BARRIER_PLUGINS", "alpha")
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "watch")

    registry.load_observers()

    assert "observers" in sys.modules


def test_an_observer_that_failed_is_tried_again(site: Site, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    source = f"open({str(traces / 'trace')!r}, 'w').close()\n{OBSERVERS}"
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": source},
    )
    manager = new_manager()
    registry = Registry(manager)
    registry.load_observers()
    assert manager.hook.barrier_created.get_hookimpls() == []
    traces.mkdir()

    registry.load_observers()

    assert len(manager.hook.barrier_created.get_hookimpls()) == 1


def test_a_scan_for_observers_that_failed_is_logged_and_done_again(
    site: Site, finder: FailingFinder, caplog: pytest.LogCaptureFixture
) -> None:
    registry = watching(site)

    registry.load_observers()

    (record,) = caplog.records
    assert record.message == "no installed observer is used"
    assert "observers" not in sys.modules

    finder.mended = True
    registry.load_observers()

    assert "observers" in sys.modules


@pytest.mark.parametrize("value", ["observers:Failing", "observers:Absent", "absent:Observer"])
def test_a_broken_observer_is_logged_and_costs_only_itself(
    site: Site, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    site.install(
        "watching",
        f"[barriers.observers]\nbad = {value}\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    manager = new_manager()

    Registry(manager).load_observers()

    (listening,) = manager.hook.barrier_created.get_hookimpls()
    assert listening.plugin_name == "observer watch"
    (record,) = caplog.records
    assert record.name == "barrier_core"
    assert f"entry point 'bad' = '{value}' of watching 1.0 is left out" in record.message
