# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd's unit files as far as the checks read them: what starts at boot, and what a command is given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PermanentError
from ..regular_file import read_regular
from .system import unit_states

if TYPE_CHECKING:
    from .facts import HostPaths

# What `systemctl is-enabled` prints of a unit that is started at boot.
ENABLED = ("enabled", "alias", "generated")

# How far back the units that want one another are followed: vdsmd, sanlock, wdmd.
_DEPTH = 4

# Of a longer file the beginning is read.
_MOST_BYTES = 1024 * 1024

_PULLS = re.compile(r"^(?:Wants|Requires|BindsTo)=(.*)$", re.MULTILINE)

_MOUNTS_FOR = re.compile(r"^(?:Requires|Wants)MountsFor=(.*)$", re.MULTILINE)


class UnitFiles:
    """The unit files of a host."""

    def __init__(self, host: HostPaths) -> None:
        # In the order in which systemd goes (systemd.unit(5)).
        self.folders = [
            *(top / "systemd/system" for top in (host.etc, host.run)),
            host.run / "systemd/generator",
            host.lib / "systemd/system",
        ]

    def text(self, name: str) -> str:
        """The file of the unit NAME and its drop-ins; "" where there is none, or it is masked."""
        unit = next((folder / name for folder in self.folders if (folder / name).exists()), None)
        places = [folder / f"{name}.d" for folder in self.folders]
        drop_ins = [path for place in places for path in sorted(place.glob("*.conf"))]
        parts = [_read(path) for path in ([unit, *drop_ins] if unit else drop_ins)]
        return "\n".join(parts)

    def values(self, name: str, key: str) -> list[str]:
        """The values of KEY in the unit NAME; an empty one takes back those before it."""
        found: list[str] = []
        for value in re.findall(rf"^{key}=(.*)$", self.text(name), re.MULTILINE):
            found = [*found, value.strip()] if value.strip() else []
        return found

    def has(self, name: str) -> bool:
        """Whether there is a unit NAME."""
        return any((folder / name).exists() for folder in self.folders)

    def target(self, name: str) -> str:
        """A target that starts the unit NAME by a link, as `systemctl add-wants` makes it; "" for none."""
        links = (link for folder in self.folders for link in folder.glob(f"*.target.[wr]*s/{name}"))
        return next((link.parent.name.rpartition(".")[0] for link in links), "")

    def starter(self, name: str) -> str:
        """An enabled unit that starts the unit NAME with itself, perhaps by others; "" for none."""
        known, edge = {name}, {name}
        for _ in range(_DEPTH):
            edge = {unit for one in edge for unit in self._pulling(one)} - known
            states = unit_states(sorted(edge)) or {}
            found = sorted(unit for unit, state in states.items() if state in ENABLED)
            if found:
                return found[0]
            known |= edge
        return ""

    def _pulling(self, name: str) -> Iterator[str]:
        for folder in self.folders:
            for place in folder.glob(f"*.[wr]*s/{name}"):
                unit, _, kind = place.parent.name.rpartition(".")
                if kind in ("wants", "requires") and not unit.endswith(".target"):
                    yield unit
            for unit, text in _services(folder):
                words = " ".join(_PULLS.findall(text)).split()
                if name in words or name.removesuffix(".service") in words:
                    yield unit

    def starter_of_mount(self, point: str) -> str:
        """A service that waits for what is mounted at POINT, and so starts its unit; "" for none."""
        for folder in self.folders:
            for unit, text in _services(folder):
                paths = " ".join(_MOUNTS_FOR.findall(text)).split()
                if any(path == point or path.startswith(f"{point}/") for path in paths):
                    return unit
        return ""


def _services(folder: Path) -> Iterator[tuple[str, str]]:
    """The text of each service in FOLDER, and of each drop-in for one, with the service's name."""
    for path in folder.glob("*.service"):
        yield path.name, _read(path)
    for path in folder.glob("*.service.d/*.conf"):
        yield path.parent.name.removesuffix(".d"), _read(path)


def _read(path: Path) -> str:
    try:
        return read_regular(path, _MOST_BYTES).decode("utf-8", "replace")
    except (PermanentError, OSError):
        return ""
