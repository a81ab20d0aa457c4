# SPDX-License-Identifier: Apache-2.0
"""The role that reads the kernel's counters and events and decides what follows; it controls nothing."""
