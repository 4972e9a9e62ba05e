"""Streaming on two real processes with two workers each: as many steps on both, each image once, whatever the shards hold."""

import json
import subprocess
import sys
from pathlib import Path

from tests.datamodules.streaming import served

COUNT = 157  # 95 of them for training: an odd number, so that one comes twice

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from lightning.pytorch import LightningModule, Trainer
from tests.datamodules.streaming import served

torch.set_num_threads(1)
address, place, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

class Noting(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(4, 1), []

    def training_step(self, batch, _):
        self.seen.append([self.current_epoch, served.numbers_of([batch])])
        return self.layer(batch["features"]["embedding"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

data = served.module(count, place / "local", address, num_workers=2, batch_size=4)
module = Noting()
quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
trainer = Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", limit_val_batches=0, default_root_dir=place, **quiet)
trainer.fit(module, datamodule=data)
(place / f"seen-{trainer.global_rank}.json").write_text(json.dumps(module.seen))
"""


def test_two_processes_take_as_many_steps_and_see_all(tmp_path):
    folder = served.module(COUNT, tmp_path / "remote").cache.folder
    served.fill(folder, range(100), shard_samples=100)  # one large shard and many small ones
    served.fill(folder, range(100, COUNT), shard_samples=5)
    server, address, _ = served.start(tmp_path / "remote")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    try:
        command = [sys.executable, str(script), address, str(tmp_path), str(COUNT)]
        environment = {"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        server.shutdown()
        server.server_close()
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    trained = [i for i in range(COUNT) if i % 5 < 3]
    assert len(trained) % 2
    for epoch in (0, 1):
        batches = [[numbers for number, numbers in each if number == epoch] for each in seen]
        assert [list(map(len, each)) for each in batches] == [[4] * 12] * 2
        numbers = [number for each in batches for batch in each for number in batch]
        assert set(numbers) == set(trained)
        assert len(numbers) == len(trained) + 1, "one comes twice, so that both have as many"
    first, second = ([numbers for number, numbers in seen[0] if number == epoch] for epoch in (0, 1))
    assert first != second, "each epoch has its own order"
