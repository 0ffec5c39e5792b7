# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a virtual machine safe when sanlock has lost its lease.

sanlock runs the killpath executable once per process that lost its leases; this package is what that
executable does.  Importing the package, and all that is needed to parse the arguments, imports C modules of
the standard library only: hundreds of these processes may start in the same second.
"""

__version__ = "0.1.0"
