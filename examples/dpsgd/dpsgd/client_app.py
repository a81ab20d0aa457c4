# SPDX-License-Identifier: Apache-2.0
"""What a device does: learn by DP-SGD, and keep count of what all rounds together say about a single record.

The count stays on the device, as a line of the app's own output. Abadi et al. 2016, "Deep learning with
differential privacy".
"""

from __future__ import annotations

import sys

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from . import task

app = ClientApp()
# Where the app remembers, between rounds, how many steps it has taken.
STEPS = "dpsgd-steps"


def own_records(context: Context) -> TensorDataset:
    """The folder that the operator named, else a part of scikit-learn's digits (simulation, stock node)."""
    folder = context.node_config.get("data-path", "")
    if folder:
        return task.load_folder(str(folder))
    index = int(context.node_config.get("partition-id", 0))
    return task.load_sklearn(test=False, index=index, count=int(context.node_config.get("num-partitions", 1)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round. Opacus draws each batch at random, shortens each record's gradient and adds noise."""
    config, records = context.run_config, own_records(context)
    torch.set_num_threads(1)
    net = task.Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    batch_size = int(config["batch-size"])
    model, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=float(config["lr"])),
        data_loader=DataLoader(records, batch_size=batch_size),
        noise_multiplier=float(config["record-noise"]),
        max_grad_norm=float(config["record-norm"]),
    )
    steps = 0
    for _ in range(int(config["local-epochs"])):
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            steps += 1
    note(context, steps, 1 / len(loader), float(config["record-noise"]), float(config["record-delta"]))
    content = RecordDict(
        {
            "arrays": ArrayRecord(net.state_dict()),
            "metrics": MetricRecord({"num-examples": len(records)}),
        }
    )
    return Message(content, reply_to=message)


def note(context: Context, steps: int, share: float, noise: float, delta: float) -> None:
    """Say how far a single record's privacy is spent by all rounds of this process."""
    before = context.state.metric_records.get(STEPS)
    total = steps + (int(before["count"]) if before else 0)
    context.state[STEPS] = MetricRecord({"count": total})
    accountant = RDPAccountant()
    accountant.history = [(noise, share, total)]
    spent = accountant.get_epsilon(delta=delta)
    sys.stderr.write(f"dpsgd: {total} steps, epsilon {spent:.2f} a record at delta {delta:g}\n")
