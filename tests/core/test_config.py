"""What a config file and the environment say, and every way in which a file can be bad."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from barrier_core import BarrierConfig, BarrierConfigError, create_barrier_from_config

TOML = """
[barrier]
barrier_type = "sample"
[barrier.barrier_args]
barrier_prefix = "ckpt"
timeout_secs = 60

[trainer]
steps = 1000
"""
JSON = json.dumps(
    {
        "barrier": {
            "barrier_type": "sample",
            "barrier_args": {"barrier_prefix": "ckpt", "timeout_secs": 60},
        },
        "trainer": {"steps": 1000},
    }
)
AS_WRITTEN = BarrierConfig("sample", {"barrier_prefix": "ckpt", "timeout_secs": 60})


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content"), [("barrier.toml", TOML), ("barrier.json", JSON)])
def test_a_file_is_read_by_its_suffix_and_other_tables_are_left_alone(
    tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content)

    assert BarrierConfig.from_file(path) == AS_WRITTEN
    assert BarrierConfig.from_file(str(path)) == AS_WRITTEN


@pytest.mark.parametrize(
    ("name", "content"), [("b.toml", "[barrier]"), ("b.json", '{"barrier":{}}')]
)
def test_a_file_may_name_no_barrier(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)

    config = BarrierConfig.from_file(tmp_path / name)

    assert config == BarrierConfig(None, {})
    assert create_barrier_from_config(config) is None


BAD_FILES: dict[str, tuple[str, bytes | None, list[str]]] = {
    "missing": ("absent.toml", None, ["absent.toml does not exist (working directory /"]),
    "a folder": ("", None, ["cannot be read: Is a directory"]),
    "another suffix": ("b.yaml", b"barrier: {}", ["b.yaml", "must end in .toml or .json"]),
    "not TOML": ("b.toml", b"[barrier\n", ["b.toml", "not valid TOML", "line 1"]),
    "not JSON": ("b.json", b'{"barrier": ', ["b.json", "not valid JSON"]),
    "TOML that is not text": ("b.toml", b"\xff\xfe", ["b.toml", "not valid TOML", "utf-8"]),
    "JSON that is not text": ("b.json", b'"\xff\xfe"', ["b.json", "not valid JSON"]),
    "no [barrier]": ("b.toml", b"[barier]", ["wrong shape", "barrier", "Expected a table [barr"]),
    "empty": ("b.json", b"", ["b.json", "not valid JSON"]),
    "a list": ("b.json", b"[]", ["wrong shape", "`array`", "Expected a table [barrier]"]),
    "[barrier] is a name": ("b.toml", b'barrier = "sample"', ["wrong shape", "$.barrier"]),
    "an unknown key": (
        "b.toml",
        b'[barrier]\nbarier_type = "sample"',
        ["wrong shape", "`barier_type`", "$.barrier", "barrier_type (a name)"],
    ),
    "a type that is a number": (
        "b.toml",
        b"[barrier]\nbarrier_type = 1",
        ["wrong shape", "$.barrier.barrier_type", "barrier_type (a name)"],
    ),
    "a NUL in its path": ("b\0.toml", None, ["cannot be read", "embedded null"]),
    "TOML that is nested deeply": ("b.toml", b"a = " + b"[" * 10_000, ["not valid TOML"]),
    "JSON that is nested deeply": ("b.json", b"[" * 100_000, ["not valid JSON", "recursion"]),
    "larger than 16 MiB": ("b.json", b" " * (2**24 + 1), ["more than 16777216 bytes"]),
    "arguments that are a list": (
        "b.json",
        b'{"barrier": {"barrier_args": []}}',
        ["wrong shape", "$.barrier.barrier_args", "[barrier.barrier_args]"],
    ),
}


@pytest.mark.parametrize(("name", "content", "fragments"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_an_error_with_its_name_and_what_is_wrong(
    tmp_path: Path, name: str, content: bytes | None, fragments: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(BarrierConfigError) as raised:
        BarrierConfig.from_file(path)

    message = str(raised.value)
    assert f"config file {path}".partition("\0")[0] in message
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_a_fifo_is_no_config_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.toml")

    with pytest.raises(BarrierConfigError, match="it is a FIFO or a device; give the path of"):
        BarrierConfig.from_file(tmp_path / "b.toml")


def test_a_missing_file_is_told_where_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()

    with pytest.raises(BarrierConfigError, match=r"file absent\.toml does not exist$"):
        BarrierConfig.from_file("absent.toml")


@pytest.mark.parametrize("path", [3, None, b"barrier.toml", object()])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(BarrierConfigError, match="cannot be the path of a config file"):
        BarrierConfig.from_file(path)


# --- the environment -----------------------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "barrier.toml").write_text(TOML)
    environ = {
        "BARRIER_TYPE": "local",
        "BARRIER_ARG_TIMEOUT_SECS": "5",
        "BARRIER_ARG_PORT": "29600",
    }

    config = BarrierConfig.from_file(tmp_path / "barrier.toml", environ)

    assert config == BarrierConfig(
        "local", {"barrier_prefix": "ckpt", "timeout_secs": "5", "port": "29600"}
    )


def test_the_environment_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(JSON)
    environ = {"BARRIER_CONFIG": str(tmp_path / "other.json")}

    assert BarrierConfig.from_file(tmp_path / "absent.toml", environ) == AS_WRITTEN
    assert BarrierConfig.from_environment(environ) == AS_WRITTEN


def test_the_environment_alone_is_enough() -> None:
    environ = {"BARRIER_TYPE": "sample", "BARRIER_ARG_BARRIER_PREFIX": "ckpt", "PATH": "/bin"}

    assert BarrierConfig.from_environment(environ) == BarrierConfig(
        "sample", {"barrier_prefix": "ckpt"}
    )


@pytest.mark.parametrize("environ", [{}, {"BARRIER_TYPE": "", "BARRIER_CONFIG": ""}])
def test_an_environment_that_says_nothing_names_no_barrier(environ: dict[str, str]) -> None:
    assert BarrierConfig.from_environment(environ) == BarrierConfig()


def test_this_processs_environment_counts_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "barrier.toml").write_text(TOML)
    monkeypatch.setenv("BARRIER_ARG_TIMEOUT_SECS", "5")

    assert BarrierConfig.from_file(tmp_path / "barrier.toml").barrier_args["timeout_secs"] == "5"
    assert BarrierConfig.from_environment().barrier_args == {"timeout_secs": "5"}


def test_a_bad_file_that_the_environment_names_is_an_error_that_says_so(tmp_path: Path) -> None:
    environ = {"BARRIER_CONFIG": str(tmp_path / "absent.toml")}

    with pytest.raises(BarrierConfigError, match=r"absent\.toml \(named by BARRIER_CONFIG\) does"):
        BarrierConfig.from_file("barrier.toml", environ)
