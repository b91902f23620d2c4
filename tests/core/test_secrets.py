"""Nothing shows a secret: no message, no repr, no command, no trace, no report of a failure."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from barrier_core import Barrier, BarrierConfig, BarrierConfigError, BarrierError, create_barrier
from barrier_core.discovery.registry import registry
from barrier_core.errors import BarrierSetupError, as_text
from barrier_core.secret import Secret
from barrier_core.shown import shown, without_passwords
from tests.support.command import Command

S3CRET = "s3cret" * 3
URL = f"redis://:{S3CRET}@store:6379/0"


class Locked(Barrier):
    """A barrier with a password."""

    barrier_type = "locked"

    def __init__(
        self,
        global_rank: int,
        global_world_size: int,
        password: Secret | None = None,
        url: str = "redis://:default@store",
        port: int = 1,
        raises: str = "",
    ) -> None:
        super().__init__(global_rank, global_world_size)
        self.password = password
        if raises == "ValueError":
            raise ValueError(f"cannot use {password and password.reveal()} at {url}")
        if raises == "OSError":
            raise OSError(5, f"cannot reach {url} with {password and password.reveal()}")
        if raises == "setup":
            raise BarrierSetupError(f"the store at {url} does not answer")
        if raises:
            raise RuntimeError(password and password.reveal())

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


@pytest.fixture(autouse=True)
def _locked_is_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    registry.register(Locked)
    yield
    registry.unregister("locked")


def make(**args: Any) -> Locked:
    barrier = create_barrier("locked", **args)
    assert isinstance(barrier, Locked)
    return barrier


def test_a_secret_is_given_as_text_as_a_file_and_as_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{S3CRET}\n")
    monkeypatch.setenv("PASSWORD", S3CRET)

    for value in (S3CRET, Secret(S3CRET), f"file:{tmp_path}/password", "env:PASSWORD"):
        assert make(password=value).password == Secret(S3CRET)
    assert make().password is None
    assert make(password="none").password is None


def test_a_secret_is_shown_to_nobody_but_who_reveals_it() -> None:
    secret = Secret(S3CRET)

    assert {repr(secret), str(secret), f"{secret}", shown([secret])} == {"***", "[***]"}
    assert secret.reveal() == S3CRET
    assert pickle.loads(pickle.dumps(secret)) == secret != Secret("another")
    assert len({secret, Secret(S3CRET)}) == 1
    assert secret != S3CRET


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt name": ({"pasword": S3CRET}, "no argument pasword; did you mean password?"),
    "a misspelt url": ({"ulr": URL}, "no argument ulr; did you mean url?"),
    "a url for a number": ({"port": URL}, r"port='redis://:\*\*\*@store:6379/0' does not fit"),
    "a list of urls": ({"port": [URL]}, r"port=\['redis://:\*\*\*@store:6379/0'\] does not fit"),
    "not text": ({"password": 3}, "password is a int, and must be a text, file:PATH or env:NAME"),
    "nothing": ({"password": ""}, "password is empty"),
    "no variable": ({"password": "env:ABSENT"}, "environment variable 'ABSENT', which is not set"),
    "no file": ({"password": "file:/absent"}, "the file of password, '/absent', does not exist"),
    "no text in the file": ({"password": "file:/bin/sh"}, "is not text in UTF-8"),
    "a folder": ({"password": "file:/"}, "cannot be read: Is a directory"),
    "a wrong value": ({"password": S3CRET, "url": URL, "raises": "ValueError"}, r"use \*\*\* at"),
    "no store": ({"password": S3CRET, "url": URL, "raises": "OSError"}, r"reach redis://:\*\*\*@"),
    "a setup error": ({"url": URL, "raises": "setup"}, r"redis://:\*\*\*@store:6379/0 does not"),
    "a fault": ({"password": S3CRET, "raises": "fault"}, r"RuntimeError: \*\*\*\. Its"),
}


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_no_error_and_no_traceback_shows_a_secret(args: dict[str, Any], message: str) -> None:
    with pytest.raises(BarrierError, match=message) as raised:
        make(**args)

    assert S3CRET not in "".join(traceback.format_exception(raised.value))


def test_the_repr_of_a_config_shows_no_text() -> None:
    config = BarrierConfig("locked", {"password": S3CRET, "port": 3, "url": URL, "urls": [URL]})

    assert repr(config) == (
        "BarrierConfig(barrier_type='locked', "
        "barrier_args={'password': ***, 'port': 3, 'url': ***, 'urls': ***})"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "fragment"),
    [
        (["info", "locked"], 0, "password: secret | None = None"),
        (["info", "locked"], 0, "url: str = 'redis://:***@store'"),
        (["info", "locked", "--json"], 0, '"type": "secret | None"'),
        (["wait", "--type", "locked", "--arg", f"pasword={S3CRET}"], 2, "no argument pasword"),
        (["wait", "--type", "locked", "--arg", f"password:{S3CRET}"], 2, "--arg takes KEY=VALUE"),
        (["wait", "--type", "locked", "--arg", f"port={URL}"], 2, "redis://:***@store"),
    ],
)
def test_no_command_shows_a_secret(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, fragment: str
) -> None:
    outcome = Command(capsys)(*arguments)

    assert outcome.status == status
    assert fragment in outcome.out + outcome.err
    assert S3CRET not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("raises", "status"), [("ValueError", 2), ("OSError", 3), ("setup", 3), ("fault", 3)]
)
def test_a_constructor_that_raises_is_no_failed_round(
    capsys: pytest.CaptureFixture[str], raises: str, status: int
) -> None:
    arguments = [f"--arg=password={S3CRET}", f"--arg=url={URL}", f"--arg=raises={raises}"]
    outcome = Command(capsys)("wait", "--type", "locked", *arguments)

    assert outcome.status == status  # 1 says that the round has failed
    assert "Traceback" not in outcome.err
    assert S3CRET not in outcome.err


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"redis://:{S3CRET}@store", "redis://:***@store"),
        (f"redis://me:{S3CRET}@a,redis://b", "redis://me:***@a,redis://b"),
        (f"redis://me:a@b/c{S3CRET}@store is lost", "redis://me:***@store is lost"),
        ("http://store:80/path", "http://store:80/path"),
        ("no://password", "no://password"),
    ],
)
def test_a_password_in_a_url_is_hidden_in_what_is_shown_and_in_what_is_told(
    text: str, hidden: str
) -> None:
    assert without_passwords(text) == hidden
    assert shown(text) == f"'{hidden}'"
    assert as_text(text) == hidden
    assert str(BarrierConfigError(text)) == hidden
