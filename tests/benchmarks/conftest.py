"""Benchmarks silence what is logged while they measure; what is tested after them in the same process is not silenced."""

import logging

import pytest


@pytest.fixture(autouse=True)
def loud_again():
    names = ["", *logging.root.manager.loggerDict]
    levels = {name: logging.getLogger(name).level for name in names}
    disabled = logging.root.manager.disable
    yield
    for name in ["", *logging.root.manager.loggerDict]:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    logging.disable(disabled)
