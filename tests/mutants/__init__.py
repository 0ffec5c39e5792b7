# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program with one fix taken back: does a search find that which was not made for it?"""
