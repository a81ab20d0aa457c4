# SPDX-License-Identifier: Apache-2.0
"""How a role gets its room: whom it runs as, what it sees, its cgroup and programs, its start, the trial."""
