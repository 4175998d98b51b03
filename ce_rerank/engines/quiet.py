"""Keeps what the model libraries chatter off the terminal, and hands it to the caller to read."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTERING = ("transformers", "sentence_transformers", "huggingface_hub", "torch", "openvino", "nncf")

_lock = threading.RLock()


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Collect what the libraries log or warn meanwhile, instead of showing it; yields the list of messages.

    One thread at a time: what is switched is the whole process's. Progress bars of transformers are off from
    the first call on: they are switches of the library, not of a call.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    messages: list[str] = []
    collector = _Collector(messages)
    loggers = [logging.getLogger(name) for name in _CHATTERING]
    with _lock:
        before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [collector], False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield messages
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())
