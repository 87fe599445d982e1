"`accelerate launch` on two processes gives the same update as one process with the same batch."
import subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from accelerate_run import CASES, SHARDED, one, study
from maxmin_nb.core import load_arrays, read_json
from maxmin_nb.gpt2 import KEY

HERE = Path(__file__).parent

PLAIN = ['--multi_gpu', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
FSDP2 = ['--config_file', HERE.parent/'configs/accelerate_fsdp2.yaml']

def launch(options, *script):
    "Two processes by `accelerate launch`."
    done = subprocess.run([Path(sys.executable).parent/'accelerate', 'launch', *options, '--num_processes', '2', '--main_process_port', '0', *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr.split('torch/distributed/elastic')[0][-6000:]     # what the processes said, not the launcher
    return done.stdout

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp('two')
    launch(PLAIN, HERE/'accelerate_run.py', out, *CASES, 'study')
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

def flat(x, path=''):
    "The numbers in nested dictionaries, by their paths."
    return {k: v for n, o in x.items() for k, v in (flat(o, f'{path}/{n}') if isinstance(o, dict) else {f'{path}/{n}': o} if isinstance(o, float) else {}).items()}

def no_leftovers(out):
    assert not [p for p in Path(out).rglob('.*')], 'temporary files or locks'

def test_a_study_of_two_processes_is_one(two, tmp_path):
    study(tmp_path)
    files = lambda d: sorted(str(p.relative_to(d)) for p in d.rglob('*') if p.is_file())
    assert files(tmp_path) == files(two/'study')
    no_leftovers(two/'study')
    for m in ('single', 'maxmin'):
        a, b = (load_arrays(d/m/'checkpoint.safetensors')[0] for d in (tmp_path, two/'study'))
        for n, x in a.items(): assert np.allclose(x, b[n], atol=1e-9, rtol=1e-9), n
        assert max(abs(x).max() for n, x in a.items() if n.startswith('policy') and 'lora_B' in n) > 1e-4
    a, b = (read_json(d/'results.json') for d in (tmp_path, two/'study'))
    for x, y in zip(a['policies'], b['policies'], strict=True): assert len(flat(x)) > 8 and flat(x) == pytest.approx(flat(y), abs=1e-6), x['policy']

@pytest.mark.slow
@pytest.mark.parametrize('options', [PLAIN, FSDP2], ids=['plain', 'fsdp2'])
@pytest.mark.parametrize('command', [['gpt2'], ['tulu2', '--pairs', 'P2', '--ratios', '6', '--seeds', '0']], ids=lambda c: c[0])
def test_the_command_on_two_processes(tmp_path, command, options):
    said = launch(options, '-m', 'maxmin_nb.cli', *command, '--scale', 'smoke', '--out', tmp_path/'out')
    no_leftovers(tmp_path)
    if command[0] == 'gpt2': assert said.count('report.html') == 1 and said.count('[1/') == 1 and (tmp_path/'out/results.json').is_file()
    else:
        runs = pd.read_parquet(tmp_path/'out/tulu2_runs.parquet')
        assert set(runs['method']) == {'reference', 'single', 'maxmin', 'resample'} and not runs.duplicated(KEY).any()
