"""Ctrl-C while a command works: it ends in order, or within a second if the device is in the middle of a pack."""

import os
import signal
import sys
import threading
import time

from isoprefill.cli.entry import INTERRUPTED, end_interrupted

GRACE_S = 1.0

_acknowledged = threading.Event()


def raise_interrupts() -> None:
    """Makes SIGINT raise KeyboardInterrupt, and ends the process if that leads to nothing for `GRACE_S`.

    Python's own handler runs only when the main thread is back from C++, which may take as long as a pack.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unraisable = sys.unraisablehook

    def hook(found: "sys.UnraisableHookArgs") -> None:
        # Raised inside a callback or a finaliser it would be printed and forgotten.
        if isinstance(found.exc_value, KeyboardInterrupt):
            end_interrupted()
        unraisable(found)

    sys.unraisablehook = hook
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_grace, args=(reading,), daemon=True).start()


def acknowledge() -> None:
    """Notes that the user has been told, or that the command is over: Ctrl-C then changes nothing any more."""
    _acknowledged.set()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's end would show where it was


def _end_after_grace(reading: int) -> None:
    while os.read(reading, 1) != bytes([signal.SIGINT]):
        pass
    time.sleep(GRACE_S)
    if _acknowledged.is_set():
        os._exit(INTERRUPTED)
    end_interrupted()
