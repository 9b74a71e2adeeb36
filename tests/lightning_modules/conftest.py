"""Models that several files train and ask."""

import pytest


@pytest.fixture(scope="session")
def qwen(checkpoint):
    """Name and folder of the family that most tests are about."""
    return "qwen2_5_vl", checkpoint
