# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's verbs, one module each.

A verb's module holds add_arguments(parser) and run(arguments) -> exit status (0 done, 1 failed, 2 usage); it
parses and prints, and calls what does the work elsewhere.  A module's name is its verb, with "_" for "-".

Only the module of the verb that was asked for is loaded: `install-check` is there for a host on which another
verb cannot be, for want of libvirt-python.
"""

# In the order of use: each verb, and what it does in a line for --help.
VERBS: dict[str, str] = {
    "check": "is this host ready to lose its storage?",
    "drill": "lose a lease on purpose: is a virtual machine made safe?",
    "status": "show all domains, and what would happen to them",
    "run": "do by hand what sanlock would cause",
    "policy": "show or set whether a virtual machine is brought back",
    "recover": "bring back the virtual machines that lost their leases",
    "history": "show the outages, and what was done to each domain",
    "auth": "explain or try the credentials of libvirt's auth.conf",
    "agent": "be ready before leases are lost, with connections open; a service runs this",
    "install-check": "is ours the helper that sanlock runs on this host?",
    "activate": "replace libvirt's helper on the host at once, without a restart of sanlock",
}
