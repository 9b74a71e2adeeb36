"""Offline, small and seeded. The fixtures are in fixtures.py."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["SVT_LOG"] = "1"  # the encoder of AV1 speaks of errors alone
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # there is a worker per core; processes that it starts inherit this


def pytest_configure(config):
    """Load the fixtures, and torch with them, where tests run: the process that only hands them out needs ten seconds
    of a processor less."""
    hands_out = config.getoption("dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ
    if not hands_out:
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_finish():
    """Leave what was imported out of garbage collection: to look through all of it takes a third of a second each time,
    an eighth of the whole suite."""
    gc.collect()
    gc.freeze()
