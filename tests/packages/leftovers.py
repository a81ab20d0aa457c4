# SPDX-License-Identifier: Apache-2.0
"""What a machine's files are before a package comes and after it went, without what others keep by design."""

from __future__ import annotations

# What dpkg, systemd, a package's users and other packages leave.
KEPT = (
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid",
    "/etc/.pwd.lock",
    "/var/lib/dpkg/", "/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/systemd/", "/etc/machine-id",
    "/srv/", "/root/", "/etc/ld.so.cache", "/var/lib/logrotate/",
    "/var/lib/PackageKit/",
    "/var/lib/containers/",  # podman's own service, which starts with the machine
)  # fmt: skip
# Every file, and every folder with our name. A shell's command.
FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \\) -prune -o"
    " ! -type d -print | sort; find /etc /usr /var -xdev -type d -name '*homebound*'"
)


def names(text: str) -> set[str]:
    """What FILES printed, without what is kept by design."""
    return {name for name in text.splitlines() if name and not name.startswith(KEPT)}
