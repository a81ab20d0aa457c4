# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a family of verbs, and what they show. Nothing here runs in a role."""
