"""One set of metrics and its observer, with the access log turned off."""

import pytest

from gateway.observe.access import AccessLog
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def observer(metrics):
    return Observer(metrics, AccessLog(None), lambda: 0.0)
