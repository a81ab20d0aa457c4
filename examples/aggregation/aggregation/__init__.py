# SPDX-License-Identifier: Apache-2.0
"""Digits by a linear model; the server adds up in one of four ways."""
