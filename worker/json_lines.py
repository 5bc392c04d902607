"""Celery's own lines in the form of ours: with RINGONCE_LOG_FORMAT=json, a worker writes nothing else.

What reads logs as an object a line trips over whatever is none: Celery's loggers, the banner, the words of
its signal handlers, Python's warnings. Each keeps its text, its level and where it was sent.

Not covered: the one line of a worker that refuses to start, which is for whoever starts it.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import celery.apps.worker
from billiard.util import get_logger
from celery import signals
from celery.utils.log import ColorFormatter

from worker.observe import formatter
from worker.settings import Settings

__all__ = ["write_json"]


def write_json(settings: Settings) -> None:
    """Have every line of this process and its children be an object, from before Celery sets up logging."""
    form = formatter(settings)
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(partial(_give_form, form), weak=False)
    signals.worker_init.connect(_leave_out_banner, weak=False)
    setattr(celery.apps.worker, "safe_say", partial(_say, form))  # noqa: B010 - the stubs do not know it
    _log_warnings(form)


def _give_form(form: logging.Formatter, logger: logging.Logger, **_: object) -> None:
    """Change what Celery has just set up, and no handler of anybody else."""
    for handler in (*logger.handlers, *get_logger().handlers):
        if isinstance(handler.formatter, ColorFormatter):
            handler.setFormatter(form)


def _leave_out_banner(sender: Any, **_: object) -> None:  # noqa: ANN401 - the stubs know few of its attributes
    sender.quiet = True


def _say(form: logging.Formatter, message: str, to: TextIO | None = sys.__stderr__) -> None:
    """What Celery says from signal handlers, where no logger may be used: it could hold its own lock."""
    if to is None:
        return
    record = logging.LogRecord("celery.apps.worker", logging.INFO, __file__, 0, message, None, None)
    with suppress(OSError):  # as Celery does: nobody reads, and the stop must go on
        os.write(to.fileno(), f"{form.format(record)}\n".encode())


def _log_warnings(form: logging.Formatter) -> None:
    logging.captureWarnings(capture=True)
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(form)
    warnings = logging.getLogger("py.warnings")
    warnings.handlers[:] = [handler]
    warnings.propagate = False
