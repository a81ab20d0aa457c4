# SPDX-License-Identifier: Apache-2.0
"""A Flower app that goes wrong as it is told."""
