from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# The same examples each time, so that a red run of unchanged code means something; `nox -s thorough` draws new ones.
if find_spec("hypothesis"):  # tests/bare has none
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What pytest-xdist must leave together: the tests of a file, which share what is slow to make.

    Of the backends' contract it is the tests of a backend, or the longest of all files would be the last to end.
    """
    from xdist.scheduler import LoadFileScheduling

    class BySharedWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid.partition("[")[2] if file.endswith("test_contract.py") else file

    return BySharedWork(config, log)


@pytest.fixture(scope="session")
def artifact_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artifact cache for all tests, so that they share what is slow to build, and never the user's own."""
    return tmp_path_factory.mktemp("artifact-cache")
