"`accelerate launch` on two processes gives the same update as one process with the same batch."
import subprocess, sys
from pathlib import Path
import numpy as np, pytest
from accelerate_run import CASES, SHARDED, one
from maxmin_nb.core import load_arrays

HERE = Path(__file__).parent

PLAIN = ['--multi_gpu', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
FSDP2 = ['--config_file', HERE.parent/'configs/accelerate_fsdp2.yaml']

def launch(options, *script):
    "Two processes by `accelerate launch`."
    done = subprocess.run([Path(sys.executable).parent/'accelerate', 'launch', *options, '--num_processes', '2', '--main_process_port', '0', *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp('two')
    launch(PLAIN, HERE/'accelerate_run.py', out, *CASES)
    launch(FSDP2, HERE/'accelerate_run.py', out, *SHARDED)
    return out

@pytest.mark.parametrize('case', [*CASES, *SHARDED])
def test_two_processes_are_one(two, tmp_path, case):
    run = one(tmp_path, case)
    a, b = (load_arrays(d/'checkpoint.safetensors') for d in (tmp_path, two/case))
    for n, x in a[0].items(): assert np.allclose(x, b[0][n], atol=1e-9, rtol=1e-9), n
    assert a[0]['weights'].dtype == np.float64 and next(v for n, v in a[0].items() if 'lora_B' in n).dtype == np.float64
    moved = max(abs(v).max() for n, v in a[0].items() if n.startswith('policy') and 'lora_B' in n)
    assert moved > 1e-3
    for x, y in zip(a[1]['history'], b[1]['history']):
        for k in ('utility', 'utility_se', 'reward', 'reward_se', 'weights', 'kl', 'kl_se', 'entropy', 'clip_fraction', 'explained', 'grad_norm', 'lr', 'updates', 'drift', 'length', 'ended', 'tokens'):
            assert np.allclose(x[k], y[k], atol=1e-6), k     # what is logged passes through float32 in places

def test_only_the_main_process_writes(two):
    for case in CASES: assert sorted(p.name for p in (two/case).iterdir()) == ['checkpoint.safetensors', 'log.jsonl']
