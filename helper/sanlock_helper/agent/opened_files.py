# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files a killpath process opens until it has handed its request over, as one lists them itself.

An agent that stands keeps them in memory (kept_files.py).  It runs the executable for that, and no
interpreter by name: under SELinux its domain may execute the killpath and nothing else.
"""

import posix
import sys

from ..invocation import EXIT_DONE, EXIT_FAILED


def list_files() -> int:
    """Print opened_files(), in the bytes of the paths; returns the exit status."""
    try:
        sys.stdout.buffer.write(opened_files().encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError:
        return EXIT_FAILED
    return EXIT_DONE


def opened_files() -> str:
    """What this process has opened, "open PATH" a line, and what it has only looked up, "stat PATH".

    The latter are the sources of byte code, and what the interpreter finds its modules by.
    """
    lines = []
    for module in list(sys.modules.values()):
        source, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
        if source:
            # The source as well: it is read where byte code is older, or is compared by a hash.
            lines += [f"open {path}" for path in (cached, source) if path and posix.access(path, posix.R_OK)]
            lines.append(f"stat {source}")
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            words = line.split(None, 5)
            if len(words) == 6 and words[5][0] == "/":
                lines.append(f"open {words[5].rstrip()}")
    lines += [f"stat {folder}" for folder in (sys.prefix, *sys.path)]
    lines.append(f"stat {sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/os.py")
    return "".join(f"{line}\n" for line in lines)
