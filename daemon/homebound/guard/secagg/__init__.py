# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation: the federation gets the sum of the devices' updates and no single one of them.

The device's half of Flower's SecAgg+ (flwr 1.42, server side stock), made in the guard, so that gateway and
server see masked numbers only. docs/secagg.md says against whom it helps. Protocol: Bonawitz et al. 2017,
"Practical secure aggregation for privacy-preserving machine learning"; Bell et al. 2020, "Secure
single-server aggregation with (poly)logarithmic overhead".
"""
