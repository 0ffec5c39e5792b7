# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that serves requests: every domain safe, every outcome logged once."""
