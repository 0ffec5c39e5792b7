# SPDX-License-Identifier: LGPL-2.1-or-later
"""What decides whether recovery brings domains back on this host: its settings, and whether it is held."""

from __future__ import annotations

from ..records.recovery_hold import RELEASE, Hold
from ..timestamps import moment
from ..virt.host_conf import HostConf, read_host_conf
from .finding import Finding, failed, passed, warned
from .registry import check


@check(
    "recovery settings",
    "a file of which all counts, or none",
    reads=lambda facts: (read_host_conf(str(facts.host.etc / "virt-sanlock-helper.conf")),),
)
def check_settings(conf: HostConf) -> Finding:
    """CONF, as recovery has it."""
    if conf.problems:
        return failed(f"{'; '.join(conf.problems)}; recovery goes on with {conf.text}", conf.remedy)
    return passed(conf.text if conf.given else f"built in: {conf.text}")


@check(
    "recovery hold",
    "not held",
    reads=lambda facts: (Hold(str(facts.host.var / "lib/virt-sanlock-helper")).since(),),
)
def check_hold(since: float | None) -> Finding:
    """SINCE: when an administrator has held recovery, None where it is not held."""
    if since is None:
        return passed("not held")
    return warned(f"held since {moment(since)}: no VM that loses its leases is brought back", RELEASE)
