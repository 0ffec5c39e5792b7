# SPDX-License-Identifier: LGPL-2.1-or-later
"""The group of sanlock's socket, where a process may take it and where it may not."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytest_mock import MockerFixture

from sanlock_helper.leases import sanlock_daemon
from sanlock_helper.leases.sanlock_daemon import SOCKET, join_sanlock_group

pytestmark = pytest.mark.pure

GROUP = 4711


@pytest.mark.parametrize("error", [None, PermissionError(errno.EPERM, "Operation not permitted")])
def test_the_group_is_taken_where_that_is_allowed(
    tmp_path: Path, mocker: MockerFixture, error: OSError | None
) -> None:
    """Recovery's service filters setgroups(2): it needs no group, and goes on."""
    setgroups = mocker.Mock(side_effect=error)
    root = SimpleNamespace(
        stat=lambda path: SimpleNamespace(st_gid=GROUP if path == f"{tmp_path}/{SOCKET}" else 0),
        geteuid=lambda: 0,
        getegid=lambda: 0,
        getgroups=lambda: [7],
        setgroups=setgroups,
    )
    mocker.patch.object(sanlock_daemon, "posix", root)
    join_sanlock_group(str(tmp_path))
    setgroups.assert_called_once_with([7, GROUP])
