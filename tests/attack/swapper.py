"""Exchange pairs of names again and again for some seconds: ``python swapper.py SECONDS ONE OTHER [ONE OTHER …]``."""

import ctypes
import os
import random
import sys
import time

AT_FDCWD = -100
EXCHANGE = 2


def main() -> None:
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    names = [os.fsencode(name) for name in sys.argv[2:]]
    pairs = list(zip(names[::2], names[1::2], strict=True))
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        for one, other in pairs:
            if rename(AT_FDCWD, one, AT_FDCWD, other, EXCHANGE) and ctypes.get_errno():
                continue  # One of them has been removed; it may come back.
        # Out of step with whatever looks.
        time.sleep(random.random() / 500)


if __name__ == "__main__":
    main()
