"""Hosts of their own for the tests of several machines."""

import hosts
import pytest


@pytest.fixture(scope="module")
def network():
    """A head and two workers."""
    if reason := hosts.impossible():
        pytest.skip(reason)
    with hosts.Hosts("head", "worker-1", "worker-2") as joined:
        yield joined
