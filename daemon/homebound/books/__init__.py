# SPDX-License-Identifier: Apache-2.0
"""What left and what it cost: the ledger with its chain and signatures, the accounts, the budget spent."""
