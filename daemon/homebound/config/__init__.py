# SPDX-License-Identifier: Apache-2.0
"""The configuration: files of a site -> settings, with every fault at once. pydantic stays in here."""
