# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with other daemons' files: an overlay of the real one, with contents that break careless readers.

What is written to it is seen in the overlay's upper layer, whatever else runs on the real machine meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .pivot import WRITTEN
from .unshared import ENVIRONMENT, NAMESPACES, PYTHON

ROOT = Path(__file__).parents[2]
PIVOT = Path(__file__).with_name("pivot.py")

# Another sanlock's log, with a kill of its own and a path that is not UTF-8; settings and state hold it too.
MARK = "of-another-daemon"
FOREIGN = f"2026-11-22 19:58:30 999 [5]: s1 kill 60 sig 9 count 41\n[5]: {MARK} /".encode() + b"\xff\xfe\n\0"
FILES = (
    "/etc/libvirt/libvirtd.conf",
    "/etc/libvirt/virtqemud.conf",
    "/etc/libvirt/auth.conf",
    "/etc/sanlock/sanlock.conf",
    "/etc/sasl2/libvirt.conf",
    "/etc/virt-sanlock-helper.conf",
    "/root/.cache/libvirt/virsh/history",
    "/root/.config/libvirt/auth.conf",
    "/root/.config/libvirt/libvirt.conf",
    "/run/libvirt/qemu/other.xml",
    "/run/sanlock/sanlock.pid",
    "/run/virt-sanlock-helper/agent",
    "/var/cache/libvirt/qemu/capabilities/other.xml",
    "/var/lib/libvirt/qemu/other.monitor",
    "/var/lib/libvirt/sanlock/__LIBVIRT__DISKS__",
    "/var/lib/sanlock/other",
    "/var/lib/swtpm-localca/other",
    "/var/lib/virt-sanlock-helper/other.record",
    "/var/log/libvirt/qemu/guest.log",
    "/var/log/libvirtd.log",
    "/var/log/sanlock.log",
    "/var/log/swtpm/libvirt/qemu/other.log",
    "/var/log/virtlogd.log",
)

# argv: the checkout, the files to make and what they hold.  Out: what the body put into `answer`, and what it
# changed on the machine.
_DRIVER = """
import json, os, sys
from pathlib import Path
checkout, files, data = json.loads(sys.argv[1])
sys.path[:0] = [checkout, checkout + "/helper", checkout + "/auth"]
for path in map(Path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("latin-1"))

def written():
    found = {}
    for folder, folders, names in os.walk(WRITTEN):
        for name in folders + names:
            path = os.path.join(folder, name)
            about = os.lstat(path)
            # A folder's time changes with what is copied up below it; what is made in it has an entry itself.
            content = 0 if name in folders else (about.st_size, about.st_mtime_ns)
            found[path[len(WRITTEN):]] = (about.st_mode, about.st_uid, about.st_gid, content)
    return found

# The backing of a stack on disk comes there and goes: the folder itself is copied up before.
os.close(os.open("/var/tmp/of-the-test", os.O_CREAT))
os.unlink("/var/tmp/of-the-test")
before = written()
answer = {}
BODY
after = written()
names = before.keys() | after.keys()
answer["changed"] = sorted(name for name in names if before.get(name) != after.get(name))
print(json.dumps(answer))
"""


def run(body: str, timeout: float = 180) -> dict[str, object]:
    """Run BODY (Python that may use `files` and fills `answer`) on such a machine; returns `answer`.

    Its key "changed" has the files of the machine that BODY made, changed or removed.
    """
    code = _DRIVER.replace("WRITTEN", repr(WRITTEN)).replace("BODY", body)
    argument = json.dumps([str(ROOT), FILES, FOREIGN.decode("latin-1")])
    # These may be on file systems of their own, which an overlay of / does not show.
    own = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    binds = [f"--bind={path}={path}" for path in own if path != Path("/usr")]
    command = ["unshare", *NAMESPACES, PYTHON, "-ISB", str(PIVOT), "/", "--memory", *binds, "--"]
    result = subprocess.run(
        [*command, sys.executable, "-IB", "-c", code, argument],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer
