"""Which backend a name stands for: the core's own, one of two, or one that a list leaves out."""

from __future__ import annotations

import importlib_metadata
import pytest

from barrier_core import BarrierConfigError, BarrierPluginError, UnknownBarrierTypeError
from barrier_core.backends.local import LocalBarrier
from barrier_core.cli.inventory import all_backends
from barrier_core.discovery.known_backends import CORE, OWN_NAMES
from barrier_core.discovery.registry import Registry
from tests.core.conftest import WORKING_BACKEND, OneRank, Site

# --- the core's own names ------------------------------------------------------------------------


@pytest.fixture
def usurper(site: Site) -> Site:
    """A site in which the core is installed, and another distribution that claims its name."""
    site.install("barrier_core", {"local": "barrier_core.backends.local:LocalBarrier"})
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


def test_the_distribution_of_a_name_is_known_without_importing_it(
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


@pytest.mark.parametrize("blocked", ["zeta", "zeta@barrier-zeta"])
@pytest.mark.parametrize("asked", ["zeta", "zeta@barrier-zeta"])
def test_the_long_form_of_a_name_does_not_get_around_the_lists(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch, blocked: str, asked: str
) -> None:
    site.install_backend("zeta")
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", blocked)

    with pytest.raises(UnknownBarrierTypeError) as raised:
        registry.get(asked)
    all_backends(registry)

    objection = f"'zeta' is installed, but BARRIER_PLUGINS_BLOCK={blocked} leaves it out"
    assert str(raised.value).endswith(objection)
    assert not site.imported("zeta")


def test_the_lists_count_as_they_are_when_a_backend_is_asked_for(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_backend("alpha")
    site.install_backend("zeta")

    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "alpha")
    assert registry.names() == ["zeta"]

    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "")
    assert registry.names() == ["alpha", "zeta"]


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
