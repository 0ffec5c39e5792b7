# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a row of the truth table needs: a host that is broken, the line of `check`, its remedy, and a pass."""

from __future__ import annotations

import re
import shlex
from typing import Callable

from .command import COMMAND, checks
from .namespace import ENVIRONMENT
from .stack import Stack

Found = dict[str, dict[str, str]]

QEMU_CONF = "/etc/libvirt/qemu.conf"
LOCK_CONF = "/etc/libvirt/qemu-sanlock.conf"

BIN = "/run/stack/bin"

# What systemctl does for the daemons of a stack, which has no systemd; unit files are the real one's task.
_SYSTEMCTL = """\
#!/bin/sh
set -e
# until COMMAND...: every 0.1 s, for 30 s.
wait_until() {{
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    return 1
}}
gone() {{ ! [ -e "/proc/$1" ]; }}
start() {{
    case $1 in
        {daemon}*) {libvirtd} && wait_until virsh -q -c qemu:///system list ;;
        sanlock*) {options}{environ} {sanlock} $sanlock_opts && wait_until sanlock client status ;;
    esac
}}
stop() {{
    case $1 in
        {daemon}*) pid=$(cat {pidfile} 2>/dev/null) && kill "$pid" || return 0 ;;
        sanlock*) pid=$(cat /run/sanlock/sanlock.pid); sanlock client shutdown ;;
    esac
    wait_until gone "$pid"
}}
verb=$1; shift
case $verb in
    start) for unit; do start "$unit"; done ;;
    stop) for unit; do stop "$unit"; done ;;
    restart) for unit; do stop "$unit"; start "$unit"; done ;;
    # Debian's would also change the links of init scripts, which are the machine's own.
    *) SYSTEMCTL_SKIP_SYSV=1 exec /usr/bin/systemctl --root=/ "$verb" "$@" ;;
esac
"""


def install_systemctl(stack: Stack, command: list[str] | None = None) -> None:
    """Put a systemctl before the real one, for remedies, and this program where they find it.

    COMMAND starts sanlock in the place of the stack's own, with the options that Debian's unit reads.
    """
    daemon, sanlock = stack.libvirtd, stack.sanlock
    text = _SYSTEMCTL.format(
        daemon=daemon.name,
        libvirtd=shlex.join(daemon.command()),
        pidfile=daemon.pidfile,
        environ=" ".join(f"{name}={shlex.quote(value)}" for name, value in sanlock.environment().items()),
        sanlock=shlex.join(command or sanlock.command()),
        options=". /etc/default/sanlock; " if command else "",
    )
    stack.write(f"{BIN}/systemctl", text, 0o755)
    stack.write(f"{BIN}/virt-sanlock-helper", f'#!/bin/sh\nexec "{COMMAND}" "$@"\n', 0o755)


def follow(stack: Stack, remedy: str) -> None:
    """Run a remedy as an administrator would paste it."""
    stack.run("sh", "-ec", remedy, env={"PATH": f"{BIN}:{ENVIRONMENT['PATH']}"})


def assert_line(found: Found, name: str, verdict: str, words: str) -> str:
    """That the check NAME has VERDICT, and WORDS in what it found; returns its remedy."""
    line = found[name]
    assert line["verdict"] == verdict, line
    assert words in line["found"], line
    return line["remedy"]


def assert_passes(found: Found, *names: str) -> None:
    assert {name: found[name] for name in names if found[name]["verdict"] != "pass"} == {}


def assert_mended(stack: Stack, name: str, verdict: str, words: str, *also: str) -> None:
    """A row whose remedy is run: NAME does not pass, with WORDS, and passes afterwards, and ALSO with it."""
    follow(stack, assert_line(checks(stack), name, verdict, words))
    assert_passes(checks(stack), name, *also)


def edit(stack: Stack, path: str, change: Callable[[str], str]) -> str:
    """Change the text of a file; returns what it was."""
    file = stack.path(path)
    text = file.read_text()
    file.write_text(change(text))
    assert file.read_text() != text
    return text


def without(name: str) -> Callable[[str], str]:
    """A change that takes the setting NAME away."""
    return lambda text: re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
