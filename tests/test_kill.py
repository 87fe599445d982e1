"A run killed by `kill -9` at a random moment and started again ends with the same weights bit for bit, and with the same log."
import json, os, random, signal, time
from pathlib import Path
import pytest
from forks import process

PROMPTS = ['a good film', 'a bad film', 'the plot', 'music and story']
STEPS = 4

def train(folder, die_in=None):
    "The run; with `die_in` it kills itself while it writes the checkpoint of that step, before the file is in its place."
    from fit_once import heads, torch
    from maxmin_nb.maxmin_ppo import MaxMinPPO
    from maxmin_nb.policy import Policy
    from maxmin_nb.text import tiny_model
    torch.set_num_threads(1)
    run = MaxMinPPO(Policy(tiny_model(), 2, 4, 1., 8), heads(), batch=8, minibatch=3, lr=1e-2)
    if die_in:
        replace = os.replace
        def last(*a):
            if len(run.history) == die_in: os.kill(os.getpid(), signal.SIGKILL)
            replace(*a)
        os.replace = last
    run.train(PROMPTS, STEPS, folder)

def child(folder, after=None, die_in=None):
    "Run in a process of its own; kill it after so many seconds. The exit code."
    p = process(train, str(folder), die_in)
    p.join(after)
    if p.is_alive(): os.kill(p.pid, signal.SIGKILL)
    p.join()
    return p.exitcode

def result(folder):
    "Every byte of the checkpoint but the clock's, and the log without times."
    from maxmin_nb.core import load_arrays
    arrays, meta = load_arrays(folder/'checkpoint.safetensors')
    clean = lambda h: {k: v for k, v in h.items() if not k.startswith('s_') and k != 'tokens_per_s'}
    log = [clean(json.loads(l)) for l in (folder/'log.jsonl').read_text().splitlines()]
    assert log == [clean(h) for h in meta['history']] and len(log) == STEPS
    assert sorted(p.name for p in folder.iterdir()) == ['checkpoint.safetensors', 'log.jsonl'], 'something half written was left'
    return {n: a.tobytes() for n, a in arrays.items()}, log

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "What a run without interruption ends with, and how long it takes once everything is imported."
    folder = tmp_path_factory.mktemp('whole')
    assert child(folder/'warm') == 0
    t = time.monotonic()
    assert child(folder/'run') == 0
    return *result(folder/'run'), time.monotonic() - t

@pytest.mark.parametrize('case', [pytest.param(i, marks=[pytest.mark.slow]*(i >= 3)) for i in range(20)])
def test_killed_at_a_random_moment(whole, tmp_path, case):
    weights, log, seconds = whole
    at = random.Random(case).uniform(.05, .95)*seconds
    code = child(tmp_path, at)
    assert code in (-signal.SIGKILL, 0)              # 0: the machine was faster this time
    assert child(tmp_path) == 0
    assert result(tmp_path) == (weights, log)

@pytest.mark.parametrize('step', [1, 3])
def test_killed_while_the_checkpoint_is_written(whole, tmp_path, step):
    weights, log, _ = whole
    assert child(tmp_path, die_in=step) == -signal.SIGKILL
    assert any(p.name.startswith('.checkpoint') for p in tmp_path.iterdir()), 'it died in the middle of writing'
    assert child(tmp_path) == 0
    assert result(tmp_path) == (weights, log)
