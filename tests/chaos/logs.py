"""What the logs of workers tell: which of their tracebacks are no defect of ours, and which ends are none."""

from __future__ import annotations

import re
from collections.abc import Iterator

HARMLESS = (
    (r"redis\.exceptions\.(ConnectionError|TimeoutError|BusyLoadingError)\b", ""),
    (r"billiard\.exceptions\.WorkerLostError: Worker exited prematurely: signal 9 ", ""),
    (r"billiard\.einfo\.ExceptionWithTraceback: $", ""),
    (r"ValueError: I/O operation on closed file\.$", "fire_timers_loop"),
    (r"ValueError: I/O operation on closed file\.$", "_run_ready_callbacks"),
    (r"RuntimeError: .* the handler is closed$", "uvloop.loop.SSLProtocol._do_read"),
)
"""Tracebacks that are no defect of ours, by the beginning of their last line, and a function that they lead
through where it says too little. Celery tells so of a broker that hung up, and of a child that was killed;
the third only wraps another. The next two are of a worker that stops while its broker is silent: Celery
(5.7.0, ``prefork.on_stop``) waits a second for a thread that still asks the broker, or confirms a ring to it,
then closes what it reads from.
The last is uvloop's (0.23), of a TLS connection closed by what came over it: there was more to send."""
DEADLY = (
    (r"billiard\.exceptions\.WorkerLostError: Could not start worker processes", ""),
    (r"StopIteration$", "get_process_queues"),
)
"""With these a worker may even end by itself, and whoever supervises it tries again; by the last line, and
the function that raised it, where the line says too little. Both are Celery's: a child was killed before
it reached its broker; or (its issue 6052) in the moment in which the broker hung up."""
AWAY = "ringonce: Postgres cannot be reached"
"""The last line of a worker that found no Postgres when it started: it may end so, too."""
DEFECTS = re.compile(r".*\b(?:delivery_failed|rejected|upkeep_failed|no_credential)\b.*")
BANNER = "[queues]"
"""What Celery prints in the moment in which it begins to listen to signals."""
LAST_WORDS = "Unrecoverable error"
"""With these, and the traceback that follows, Celery says what it ends of."""
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ |+-].*\n|\n)*(\S.*)")
CHAINED = re.compile(
    r"\n\n(?:During handling of the above exception|The above exception was the direct cause)[^\n]*\n\n"
    + TRACEBACK.pattern
)
FRAME = re.compile(r'^ +File ".*, in (\S+)$', re.MULTILINE)


def defects(log: str) -> Iterator[str]:
    """What no worker should say, line by line."""
    for trace in _tracebacks(log):
        if not _is_harmless(trace) and not _is_deadly(trace):
            yield f"a traceback: {_last_line(trace)}\n{trace}"
    yield from DEFECTS.findall(log)


def has_excuse(log: str) -> bool:
    """Whether a worker whose life is in *log* may have ended as it did, by itself."""
    lines = log.strip().splitlines()
    if lines and lines[-1].startswith(AWAY):
        return True
    _, last_words, why = log.rpartition(LAST_WORDS)
    traces = list(_tracebacks(why))
    return bool(traces) and _is_deadly(traces[0] if last_words else traces[-1])


def is_up(log: str) -> bool:
    """Whether a worker whose life is in *log* can be told to stop."""
    return BANNER in log


def _tracebacks(log: str) -> Iterator[str]:
    """Each chain of exceptions."""
    for first in TRACEBACK.finditer(log):
        if not log[: first.start()].endswith(":\n\n"):  # or it goes on a chain
            last = first
            while (following := CHAINED.match(log, last.end())) is not None:
                last = following
            yield log[first.start() : last.end()]


def _last_line(trace: str) -> str:
    return trace.splitlines()[-1]


def _is_harmless(trace: str) -> bool:
    functions = FRAME.findall(trace)
    return any(
        re.match(pattern, _last_line(trace)) and (not function or function in functions)
        for pattern, function in HARMLESS
    )


def _is_deadly(trace: str) -> bool:
    raised_in = FRAME.findall(trace)[-1:]
    return any(
        re.match(pattern, _last_line(trace)) and (not function or raised_in == [function])
        for pattern, function in DEADLY
    )
