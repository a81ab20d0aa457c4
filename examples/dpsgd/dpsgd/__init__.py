# SPDX-License-Identifier: Apache-2.0
"""Digits, learned by DP-SGD: a record more or less changes what leaves by no more than noise."""
