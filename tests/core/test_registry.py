"""Finding, loading and registering backends, with distributions that are really on disk."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest

import barrier_core
from barrier_core import (
    CONTRACT_VERSION,
    Barrier,
    BarrierConfigError,
    BarrierError,
    UnknownBarrierTypeError,
)
from barrier_core.discovery.finder import FoundPlugin
from barrier_core.discovery.known_backends import CORE, KNOWN_BACKENDS
from barrier_core.discovery.registry import Registry, RegistryView
from barrier_core.discovery.registry import registry as the_registry
from tests.core.conftest import WORKING_BACKEND, OneRank, Site


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


# --- the version of the contract -----------------------------------------------------------------


class OfThisContract(OneRank):
    barrier_type = "of_this_contract"
    contract_version: ClassVar[int] = 2


class OfAnotherContract(OneRank):
    barrier_type = "of_another_contract"
    contract_version: ClassVar[int] = 3


@pytest.mark.usefixtures("site")
def test_a_class_for_this_version_of_the_contract_is_used(registry: Registry) -> None:
    assert OfThisContract.contract_version == CONTRACT_VERSION

    registry.register(OfThisContract)

    assert registry.get("of_this_contract") is OfThisContract


@pytest.mark.usefixtures("site")
def test_a_class_for_another_version_is_not_registered_by_hand(registry: Registry) -> None:
    with pytest.raises(BarrierConfigError) as raised:
        registry.register(OfAnotherContract)

    assert "is built for version 3 of the barrier contract" in str(raised.value)
    assert f"has version 2: upgrade {CORE}, or install an older backend" in str(raised.value)


def test_a_class_does_not_inherit_a_version_from_the_contract() -> None:
    assert not hasattr(Barrier, "contract_version")


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
