"""A Dask cluster for tests."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest
from distributed import Client, LocalCluster

import iowq.dask


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of two workers, processes with two threads each, which a nanny restarts."""
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0"}
    patience = {"distributed.deploy.lost-worker-timeout": "120s"}  # on a machine that is busy
    with dask.config.set(patience), LocalCluster(**options) as cluster, Client(cluster) as client:
        iowq.dask.register(client)
        yield client
