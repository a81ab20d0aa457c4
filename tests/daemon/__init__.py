# SPDX-License-Identifier: Apache-2.0
"""A package for the sake of its fixtures: what has the scope "package" ends after the last of these tests."""
