# SPDX-License-Identifier: Apache-2.0
"""Every way out, tried: one file for each channel, run inside a sandbox against a receiver outside.

A channel file has NUMBER (its row in the list of channels), NAME, RULES (the kernel rules that can count
it), DELIVERS, ``attempt`` (runs inside) and ``receiver`` (listens outside). Channel files, target.py,
receiver.py and attempts.py import the standard library only, so that they run in any sandbox.
judge.py and run.py stay outside.
"""
