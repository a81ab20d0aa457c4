# SPDX-License-Identifier: Apache-2.0
"""The role that starts, joins, watches over and ends the others. The only one that is root."""
