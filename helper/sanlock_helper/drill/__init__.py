# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lease lost on purpose: in a lockspace of the drill's own, by a virtual machine of its own."""
