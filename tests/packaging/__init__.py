# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the program comes to a host: executable, RPM, systemd, SELinux."""
