#!/usr/bin/env bash
# Under Lightning's ddp strategy a forward hook of the LightningModule is called for training_step, too, with the loss.
#
# Versions: Lightning 2.6.6, torch 2.14.1.
# Guess: a forward hook is called when forward is, with what forward returns, whatever the strategy.
# Behaviour: DistributedDataParallel wraps the module and must see its forward called, so for a training step Lightning puts
#   training_step in the place of forward. Hooks of the module see both calls: first what its own forward returns, then what
#   training_step does. With one device and no ddp they see the first alone.
# Output seen:
#   strategy auto, one step: the hook sees outputs of shapes [(4, 1)]
#   strategy ddp, one step: the hook sees outputs of shapes [(4, 1), ()]
# Why it matters: a monitor that measures outputs counts twice, with a scalar among the batches, as soon as a second device
#   is there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5 'lightning==2.6.6'
cat > "$folder/program.py" <<'PYTHON'
import logging
import warnings

warnings.simplefilter("ignore")
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch):
        return self(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
for strategy in ("auto", "ddp"):
    net, shapes = Net(), []
    net.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    trainer = Trainer(max_steps=1, accelerator="cpu", devices=1, strategy=strategy, **quiet)
    trainer.fit(net, DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=4))
    print(f"strategy {strategy}, one step: the hook sees outputs of shapes {shapes}")
PYTHON
"$folder/env/bin/python" "$folder/program.py" 2> "$folder/log" | tee "$folder/seen" || cat "$folder/log"
diff "$folder/seen" - <<'SEEN'
strategy auto, one step: the hook sees outputs of shapes [(4, 1)]
strategy ddp, one step: the hook sees outputs of shapes [(4, 1), ()]
SEEN
