# SPDX-License-Identifier: Apache-2.0
"""The only room with raw data. It has no network, no user of another role, and one link: to the guard."""
