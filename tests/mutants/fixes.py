# SPDX-License-Identifier: LGPL-2.1-or-later
# ruff: noqa: E501  lines of the program stand here as they are
"""How each fix is taken back: the text of a file and what stands in its place.

The letters and numbers are those of the list of faults that the first hostile test of this program found.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """In FILE, below helper or auth, OLD becomes NEW."""

    file: str
    old: str
    new: str


class Fix(NamedTuple):
    """One fix, by its number, what is wrong without it, and how it is taken back."""

    row: str
    fault: str
    edits: tuple[Edit, ...]


_AGENT = "helper/sanlock_helper/agent/"
_VIRT = "helper/sanlock_helper/virt/"
_LEASES = "helper/sanlock_helper/leases/"
_HISTORY = "helper/sanlock_helper/history/"
_RECOVERY = "helper/sanlock_helper/recovery/"

# The process of a domain by libvirt's pid file of that name, as libvirt before 9 wrote it.
_BY_PID_FILE = Edit(
    _VIRT + "status_files.py",
    "    status.written = found.st_mtime\n",
    "    status.written = found.st_mtime\n    with contextlib.suppress(OSError):\n"
    '        with open(f"{os.path.dirname(path)}/{status.name}.pid", "rb") as file:\n'
    "            status.pid = int(file.read())\n            return _signature(found), status\n"
    "    status.pid = 2**22\n",
)
_CONTEXTLIB = Edit(
    _VIRT + "status_files.py", "import os\nimport stat\n", "import contextlib\nimport os\nimport stat\n"
)

FIXES = (
    Fix(
        *("A1", "a process is another machine's, by the name of its pid file"),
        (
            _BY_PID_FILE,
            _CONTEXTLIB,
            Edit(
                _VIRT + "processes.py",
                "    if not start or uuid_in(command_line(pid)) != uuid:\n",
                "    if not start:\n",
            ),
        ),
    ),
    Fix("A2", "the process of a domain R&D is not found", (_BY_PID_FILE, _CONTEXTLIB)),
    Fix(
        *("A3", "a lease whose key has a colon, or 48 bytes, ends the process"),
        (
            Edit(
                _LEASES + "libsanlock.py",
                '    if len(words) != 5 or b"\\\\" in line or max(len(words[0]), len(words[1])) >= NAME_LEN:\n',
                "    if len(words) < 5:\n",
            ),
        ),
    ),
    Fix(
        *("A4", "each agent dies over the same request"),
        (Edit(_AGENT + "apart.py", "\nDEATHS = 2\n", "\nDEATHS = 2**30\n"),),
    ),
    Fix(
        *("A5", "a stopped agent is waited for"),
        (
            Edit(
                _AGENT + "stand_by.py",
                "        if silence < SILENT_SECONDS:\n            return False\n",
                "        return False\n",
            ),
        ),
    ),
    Fix(
        *("A6", "sanlock.conf is read without bound, from whatever it is"),
        (
            Edit(
                _LEASES + "grace.py",
                '        if posix.stat(path).st_mode & _S_IFMT != _S_IFREG:\n            return b""\n',
                "",
            ),
            Edit(
                _LEASES + "grace.py", "posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC", "posix.O_RDONLY"
            ),
            Edit(_LEASES + "grace.py", "        while len(data) < most:\n", "        while most:\n"),
            Edit(
                _LEASES + "grace.py",
                "posix.read(descriptor, most - len(data))",
                "posix.read(descriptor, 65536)",
            ),
        ),
    ),
    Fix(
        *("A7", "no thread is to be had, and the try is lost"),
        (
            Edit(
                _AGENT + "agent.py",
                "            self._run_in_place(execution, error)\n            return\n",
                "            raise error\n",
            ),
        ),
    ),
    Fix(
        *("A8", "a refused login is final"),
        (
            Edit(
                _AGENT + "agent.py",
                "            self._refused(job, answer)\n",
                "            self._fail(job, str(answer))\n",
            ),
        ),
    ),
    Fix(
        *("A9", "a pause that ends by itself is a pause"),
        (Edit(_AGENT + "pause.py", "        _end_job(attempt, state, reason)\n", "        pass\n"),),
    ),
    Fix(
        *("A10", "leases that libvirt cannot give up are not read again"),
        (
            Edit(
                _AGENT + "outcomes.py",
                "    if progress.held_before:\n        return _release(attempt, local, held, stopped)\n",
                '    if progress.held_before:\n        return stopped, "sanlock does not answer"\n',
            ),
        ),
    ),
    Fix(
        *("A11", "a domain that libvirtd has forgotten is off"),
        (
            Edit(
                _AGENT + "attempt.py",
                "        for process in self.processes():\n",
                "        for process in ():\n",
            ),
        ),
    ),
    Fix(
        *("A12", "a run that began after the request is ended"),
        (
            Edit(
                _VIRT + "processes.py",
                "        return self.start / _TICKS > monotonic + suspended\n",
                "        return False and self.start / _TICKS > monotonic + suspended\n",
            ),
        ),
    ),
    Fix(
        *("A13", "a request's START may be -inf, a budget nan"),
        (
            Edit(
                _AGENT + "requests.py",
                "    if not -_MAX_START < start < _MAX_START:  # also false for nan\n",
                "    if not text:\n",
            ),
        ),
    ),
    Fix(
        *("A14", "a domain paused by an I/O error has no record"),
        (
            Edit(
                _AGENT + "preparation.py",
                "return state in _IN_USE or (is_paused and not is_administrators_pause(state, reason))",
                "return state in _IN_USE",
            ),
            Edit(
                _AGENT + "recorder.py",
                'status.state == "paused" and status.reason in _ADMINISTRATORS_PAUSES',
                'status.state == "paused"',
            ),
        ),
    ),
    Fix(
        *("A15", "without libvirtd there is no name and no record"),
        (
            Edit(
                _AGENT + "preparation.py",
                "    status = run.status\n    progress.process = run.process\n",
                "    progress.process = run.process\n    return\n",
            ),
        ),
    ),
    Fix(
        *("B1", "a SIGKILL after the grace is not counted"),
        (Edit(_HISTORY + "outages.py", "count (?P<count>[0-9]{1,10})\\b", "count (?P<count>1)\\b"),),
    ),
    Fix(
        *("B2", "a newline in a name begins a line"),
        (
            Edit(
                "helper/sanlock_helper/escapes.py",
                "    if text.isprintable():\n        return text\n",
                "    if text:\n        return text\n",
            ),
        ),
    ),
    Fix(
        *("B3", "any user's line is history"),
        (Edit(_HISTORY + "journal_entries.py", "    return is_roots or (", "    return True or ("),),
    ),
    Fix(
        *("B4", "a record's time may be nan"),
        (
            Edit(
                "helper/sanlock_helper/records/record.py",
                "    if not 0 <= record.time < _INFINITE:\n",
                "    if record.time < 0:\n",
            ),
        ),
    ),
    Fix(
        *("B5", "a start that is under way is running again"),
        (Edit(_AGENT + "actions.py", "    if ends_by_itself(state, reason):\n", "    if not attempt:\n"),),
    ),
    Fix(
        *("B6", "a request that was removed by hand in mid-action has no outcome"),
        (
            Edit(
                _AGENT + "agent.py",
                "            if done is None and not self._requests.serves():\n",
                "            if done is None:\n",
            ),
        ),
    ),
    Fix(
        *("B7", "a transient domain that has ended fails"),
        (
            Edit(
                _AGENT + "attempt.py",
                "(progress.run is not None or self.local is not None)",
                "progress.run is not None",
            ),
        ),
    ),
    Fix(
        *("B8", "out of descriptors nothing is served"),
        (
            Edit(
                _AGENT + "descriptors.py",
                '        if getattr(error, "errno", None) in _NO_DESCRIPTOR:\n            return True\n',
                "",
            ),
            Edit(
                _AGENT + "descriptors.py",
                '        self._reserve = _take(min(RESERVE, posix.sysconf("SC_OPEN_MAX") // 4))\n',
                "        self._reserve = _take(0)\n",
            ),
            Edit(
                "helper/sanlock_helper/call.py",
                "    close_inherited_descriptors(handover.descriptors() if handover is not None else ())\n",
                "",
            ),
        ),
    ),
    Fix(
        *("B9", "another machine with the same UUID is started"),
        (
            Edit(
                _RECOVERY + "domain_identity.py",
                "    if old_leases & new_leases or old_disks & new_disks:\n",
                "    if True:\n",
            ),
        ),
    ),
    Fix(
        *("B10", "a large auth.conf takes much more than its size"),
        (
            Edit(
                "auth/libvirt_auth/keyfile.py",
                '            text = data[start:end].decode("utf-8", "surrogateescape").lstrip(BLANKS)\n',
                '            text = data[start:].decode("utf-8", "surrogateescape")[: end - start].lstrip(BLANKS)\n',
            ),
        ),
    ),
    Fix(
        *("B11", "the last of two settings counts"),
        (
            Edit(
                _VIRT + "libvirt_conf.py",
                "        found.setdefault(setting.name, setting.value)\n",
                "        found[setting.name] = setting.value\n",
            ),
        ),
    ),
    Fix(
        *("B12", "recover --list of another user is an empty list"),
        (
            Edit(
                "helper/sanlock_helper/records/snapshot.py",
                '        return [], [f"read the records in {records.path}: {_why(error)}"]\n',
                "        return [], []\n",
            ),
        ),
    ),
)

# B13 was in a test: each stack has a sanlock log of its own now.
