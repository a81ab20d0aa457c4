# SPDX-License-Identifier: Apache-2.0
"""A Flower app that looks like the honest one."""
