# SPDX-License-Identifier: Apache-2.0
"""A plain Flower app: digits learned by federated averaging."""
