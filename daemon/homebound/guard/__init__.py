# SPDX-License-Identifier: Apache-2.0
"""The guard: the only room that decides what leaves. No network, no raw data, no torch, no pickle.

It sees a task from the gateway and an update from the trainer. May import: channel, control, books.ledger,
records, settings, errors, numpy; cryptography for what secure aggregation seals (secagg/sealing.py).
"""
