# SPDX-License-Identifier: LGPL-2.1-or-later
"""Models: this program's own code in every interleaving, with a crash and a stop at every step.

| module | what runs | what is simulated | search |
| --- | --- | --- | --- |
| test_spool.py | killpath, spool, stand-bys, agent, the processes of their own | the kernel, libvirtd | all |
| test_store.py | the helper's record, recovery's store | the kernel, a reset of the host | all |
| test_recovery.py | what recovery decides and does | libvirtd, sanlock, another host, the records | all |
| test_domains.py | actions, pause, records, /proc and status files | libvirtd, sanlock | all |

replay.py makes a deterministic automaton of a process, search.py searches it breadth first.
"""
