# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this machine gets its packages with, for use inside another root: apt's archive, pip's settings.

Nothing here names an archive or an index: they are the machine's own.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

# Proxies and certificates, for apt, pip and what they call.
_PASSED = re.compile(
    r"PIP_\w+|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:(?:http|https|ftp|all|no)_proxy)"
)


class MissingArchive(Exception):
    """apt has no Debian archive configured."""


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def archive(targets: str | None = None) -> str:
    """The Debian archive that this machine's apt has; raises MissingArchive.

    TARGETS: lines of URIs, as `apt-get indextargets` prints them.
    """
    if targets is None:
        targets = _output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        if re.search(r"/debian/*$", line):
            return line
    raise MissingArchive("apt-get indextargets names no archive whose path ends in /debian")


def apt_options() -> list[str]:
    """How this machine's apt reaches its archive: proxies, certificates, timeouts, as lines of apt.conf."""
    dump = _output("apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https")
    return [line for line in dump.splitlines() if not line.endswith(' "";')]


def environment(outside: Mapping[str, str]) -> dict[str, str]:
    """The variables of OUTSIDE by which proxies, certificates and pip's settings are passed."""
    return {name: value for name, value in outside.items() if _PASSED.fullmatch(name)}


def pip_settings(listing: str | None = None) -> dict[str, dict[str, str]]:
    """The settings of pip's files, all of them merged: values by option by section.

    LISTING: what `pip config list` prints.  Those of the environment are passed there.
    """
    if listing is None:
        listing = _output(sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list")
    found: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, option = name.partition(".")
        if separator and section != ":env:":
            found.setdefault(section, {})[option] = ast.literal_eval(value)
    return found


def pip_conf(settings: Mapping[str, Mapping[str, str]]) -> str:
    """The same as one pip.conf."""
    lines = []
    for section, options in settings.items():
        lines.append(f"[{section}]")
        for option, value in options.items():
            # A value of several lines goes on where lines are indented.
            lines.append(f"{option} = " + value.strip().replace("\n", "\n    "))
    return "\n".join(lines) + "\n"


def paths(values: Iterable[str]) -> list[Path]:
    """The files and folders of this machine that VALUES (of settings) name: certificates, wheels, indexes.

    Of an index file:///x/simple all of /x: its pages link to files beside it.
    """
    found = set()
    for value in values:
        for word in value.split():
            path = Path(word[len("file://") :] if word.startswith("file:///") else word)
            if path.is_absolute() and path.exists() and path != Path("/"):
                found.add(path.parent if word.startswith("file:") and path.is_dir() else path)
    # What lies in a folder that is there already needs no place of its own.
    return sorted(path for path in found if not found & set(path.parents))


def named_paths(outside: Mapping[str, str] | None = None) -> list[Path]:
    """The paths that pip's files and the passed variables name."""
    passed = environment(os.environ if outside is None else outside)
    options = [value for section in pip_settings().values() for value in section.values()]
    return paths([*passed.values(), *options])
