"""`AnalyzeBatch` on a local Ray, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from inference_cases import save_tiny_model

pytest.importorskip("ray")
# Two logical processors: one for the actor that analyses, one for what feeds it. With one of them Ray waits for ever.
SCRIPT = """
import json, sys
import numpy as np
import ray, ray.data
from farl_hf.inference.batches import AnalyzeBatch
from inference_cases import FixedDetector

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, _temp_dir=sys.argv[2])
context = ray.data.DataContext.get_current()
context.enable_progress_bars, context.target_max_block_size = False, 2**20
photos = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
detector = FixedDetector((0.2, 0.2, 0.7, 0.8))
options = {"tasks": ["alignment"], "models": {"alignment": sys.argv[1]}, "detector": detector}
rows = ray.data.from_items([{"image": photo, "number": i} for i, photo in enumerate(photos)])
rows = rows.map_batches(AnalyzeBatch, fn_constructor_kwargs=options, batch_size=2, concurrency=1, num_cpus=1)
rows = {row["number"]: json.loads(row["faces"])["faces"] for row in rows.take_all()}
here = AnalyzeBatch(**options)({"image": photos})["faces"]
for i, expected in enumerate(json.loads(text)["faces"] for text in here):
    assert len(rows[i]) == 1 and np.allclose(rows[i][0]["landmarks"], expected[0]["landmarks"], atol=1e-2)
print("five photos, as without Ray")
"""


@pytest.mark.slow
def test_map_batches(tmp_path):
    folder = save_tiny_model(tmp_path / "model", "alignment")
    tests = str(Path(__file__).parents[1])
    # By default Ray's workers have the lowest priority, and wait for ever where others are busy.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([tests, str(Path(tests).parent), os.environ.get("PYTHONPATH", "")])
    # Ray's sockets have short names only.
    temporary = f"/tmp/ray-{os.getpid()}"
    command = [sys.executable, "-c", SCRIPT, folder, temporary]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "as without Ray" in done.stdout, done.stderr[-3000:]
