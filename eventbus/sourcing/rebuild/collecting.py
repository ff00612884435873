"""How often the garbage collector looks at the rows of a scan."""

import gc

APART = 100_000  # new objects; Python's 700 is for programs whose objects go soon


def collect_rarely() -> None:
    """Let the collector of this process look seldom: for one that does nothing but rebuild.

    The rows of a scan stay to its end: to look through them again and again finds nothing, and is
    a quarter of its CPU time (measured: decision 0031). Cycles that the functions of a projection
    make are found all the same, later.
    """
    _, *older = gc.get_threshold()
    gc.set_threshold(APART, *older)
