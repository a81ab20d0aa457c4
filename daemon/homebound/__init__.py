# SPDX-License-Identifier: Apache-2.0
"""homebound: federated learning on your own machine, with the kernel's word that no raw data leaves.

Code that sees raw data has no way out; code that has a way out sees no raw data; between them is one
narrow typed channel that decides. Each role is a process of its own; see README.md for the drawing.
"""

__version__ = "0.1.0"
