"""What dist_barrier decides without any rank: which device, and which of torch's calls."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from barrier_dist_barrier.barrier import _barrier_with_wait, _choose_collective, choose_device

CUDA_5 = SimpleNamespace(type="cuda", index=5)
CUDA = SimpleNamespace(type="cuda", index=None)
CUDA_0 = SimpleNamespace(type="cuda", index=0)
LIMIT = timedelta(seconds=3)


@pytest.mark.parametrize(
    ("local_rank", "bound", "current", "count", "chosen"),
    [
        pytest.param("3", None, 0, 8, 3, id="nothing was set: the place on the host"),
        pytest.param("0", None, 0, 8, 0, id="the first on the host"),
        pytest.param("3", None, 6, 8, 6, id="set_device was called"),
        pytest.param("3", CUDA_5, 0, 8, 5, id="device_id was given"),
        pytest.param("3", CUDA_5, 6, 8, 5, id="device_id wins over set_device"),
        pytest.param("3", CUDA_0, 6, 8, 0, id="device_id 0 is a choice, too"),
        pytest.param("3", CUDA, 0, 8, 3, id="a device_id without an index says nothing"),
        pytest.param("3", None, 0, 1, 0, id="the launcher shows each rank its own GPU alone"),
        pytest.param(None, None, 0, 8, 0, id="no launcher"),
        pytest.param("three", None, 0, 8, 0, id="an unusable LOCAL_RANK"),
        pytest.param("-1", None, 0, 8, 0, id="a negative LOCAL_RANK"),
    ],
)
def test_each_rank_gets_its_own_gpu(
    local_rank: str | None, bound: Any, current: int, count: int, chosen: int
) -> None:
    environ = {} if local_rank is None else {"LOCAL_RANK": local_rank}
    assert choose_device(environ, bound, current, count) == chosen


class OldTorch:
    """Stands in for a torch.distributed whose barrier takes no limit."""

    def __init__(self, backend: str, finishes: bool = True) -> None:
        self.calls: list[str] = []
        self._backend = backend
        self._finishes = finishes

    def get_backend(self, group: Any) -> str:
        return self._backend

    def barrier(self, group: Any, async_op: bool) -> Any:
        self.calls.append(f"barrier {async_op}")
        return SimpleNamespace(wait=self._wait)

    def _wait(self, timeout: timedelta) -> bool:
        self.calls.append(f"wait {timeout}")
        return self._finishes


class NewTorch(OldTorch):
    """Stands in for a torch.distributed whose barrier takes a limit."""

    def barrier(self, group: Any, async_op: bool = False, timeout: timedelta | None = None) -> Any:
        self.calls.append(f"barrier {async_op} {timeout}")


@pytest.mark.parametrize(
    ("torch_distributed", "calls"),
    [
        (NewTorch("ucc"), ["barrier False 0:00:03"]),
        (OldTorch("ucc"), ["barrier True", "wait 0:00:03"]),
    ],
)
def test_the_limit_reaches_the_call_that_takes_one(
    torch_distributed: OldTorch, calls: list[str]
) -> None:
    _choose_collective(torch_distributed, "group")(LIMIT)
    assert torch_distributed.calls == calls


def test_work_that_does_not_finish_is_a_timeout() -> None:
    with pytest.raises(RuntimeError, match="timed out after 3 s"):
        _barrier_with_wait(OldTorch("ucc", finishes=False), "group", LIMIT, {})


def test_importing_the_plugin_does_not_import_torch() -> None:
    code = (
        "import sys, barrier_core, barrier_dist_barrier\n"
        "barrier_core.BARRIER_REGISTRY['dist_barrier']\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
