"""Distributions that are really there: metadata and modules on disk, on the search path."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import importlib_metadata
import pytest

from barrier_core.contract import Barrier
from barrier_core.discovery.registry import Registry
from barrier_core.discovery.registry import registry as the_registry
from barrier_core.hooks import new_manager, plugin_manager

WORKING_BACKEND = """
from barrier_core.capability import Capability
from barrier_core.contract import Barrier

class {name}(Barrier):
    '''A barrier for one rank.

    It waits for nobody.
    '''

    barrier_type = "{type}"
    capabilities = Capability.TIMEOUT | Capability.BOUNDED_STATE

    def _wait(self, number, timeout_secs, tag):
        pass
"""


class OneRank(Barrier):
    """A backend to register by hand."""

    barrier_type = "one_rank"

    def __init__(self) -> None:
        super().__init__(0, 1)

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


class Site:
    """A folder on the search path, into which a test installs distributions."""

    def __init__(self, path: Path) -> None:
        self.path = path / "site"
        self.shadowed = path / "shadowed"
        """Later on the search path: what the site has, too, is not found here."""
        self.path.mkdir()
        self.shadowed.mkdir()

    def install(
        self,
        name: str,
        entry_points: str | Mapping[str, str],
        version: str | None = "1.0",
        modules: Mapping[str, str] | None = None,
        folder: Path | None = None,
        requires: str | None = None,
    ) -> None:
        """Install a distribution.

        Args:
            entry_points: Backends by name; or the text of ``entry_points.txt``.
            modules: Source by name of the module.
            folder: Where to, if not into the site itself.
            requires: A requirement, as in ``barrier-core>=2``.
        """
        folder = folder or self.path
        info = folder / f"{name}-{version or '0'}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\n"
        metadata += "" if version is None else f"Version: {version}\n"
        metadata += "" if requires is None else f"Requires-Dist: {requires}\n"
        (info / "METADATA").write_text(metadata)
        if not isinstance(entry_points, str):
            lines = [f"{backend} = {value}\n" for backend, value in entry_points.items()]
            entry_points = "[barriers]\n" + "".join(lines)
        (info / "entry_points.txt").write_text(entry_points)
        for module, source in (modules or {}).items():
            (folder / f"{module}.py").write_text(source)

    def install_backend(self, barrier_type: str, distribution: str = "") -> None:
        """Install a working backend, whose module leaves a file when it is imported."""
        module = f"module_of_{barrier_type}"
        source = WORKING_BACKEND.format(name="Backend", type=barrier_type)
        source += f"open({str(self._trace(barrier_type))!r}, 'w').close()\n"
        self.install(
            distribution or f"barrier-{barrier_type}",
            {barrier_type: f"{module}:Backend"},
            modules={module: source},
        )

    def imported(self, barrier_type: str) -> bool:
        """Whether the module of an installed backend has been imported."""
        return self._trace(barrier_type).exists()

    def _trace(self, barrier_type: str) -> Path:
        return self.path / f"{barrier_type}.imported"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site: no other distribution is found, and what it brings is forgotten afterwards."""
    site = Site(tmp_path)
    without_distributions = [
        entry for entry in sys.path if not any(importlib_metadata.distributions(path=[entry]))
    ]
    monkeypatch.setattr(sys, "path", [str(site.path), str(site.shadowed), *without_distributions])
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        # Left alone: what the core itself imported late, such as the TOML parser.
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def registry() -> Registry:
    """A registry that holds nothing yet; it finds what is installed."""
    return Registry(new_manager())


@pytest.fixture
def globally(site: Site) -> Iterator[Site]:
    """A site in which the global registry looks, the one that `create_barrier` asks.

    What other tests have loaded is set aside.
    """

    def unload() -> dict[str, type]:
        the_registry.refresh()
        loaded = {
            name: each for name, each in plugin_manager.list_name_plugin() if isinstance(each, type)
        }
        for name in loaded:
            the_registry.unregister(name)
        return loaded

    loaded = unload()
    yield site
    unload()
    for name, backend in loaded.items():
        plugin_manager.register(backend, name)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the developer has set for their own barriers out of the tests."""
    for name in os.environ:
        if name.startswith("BARRIER_"):
            monkeypatch.delenv(name)


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
