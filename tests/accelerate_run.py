"One script for one process and for several (`accelerate launch --multi_gpu --num_processes 2 accelerate_run.py OUT CASE`; without GPUs they use gloo): two steps at scale smoke in float64. GPT-2, since a Llama's RMSNorm passes through float32 whatever the model's precision, which leaves 1e-8."
import os, sys, time
from dataclasses import replace
import numpy as np, torch
from fit_once import heads
from maxmin_nb.core import get_scale
from maxmin_nb.gpt2 import Settings, Study
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.policy import Policy
from maxmin_nb.text import tiny_model
from maxmin_nb.welfare import Nash

PROMPTS = ['a good film', 'the plot of a comedy you saw on plane', 'music', 'music and story']
CASES = dict(whole={}, parts=dict(minibatch=3, microbatch=2, eos_penalty=1.), loss=dict(kl='loss', minibatch=4, target_kl=.2, epochs=4), minimum=dict(per_response_min=True), nash=dict(welfare=Nash(zero=-5.), utility='raw'))
SHARDED = dict(sharded=dict(batch=8), sharded_parts=dict(batch=8, minibatch=3, microbatch=2, eos_penalty=1.), sharded_loss=dict(batch=8, kl='loss', minibatch=4, target_kl=.2, epochs=4))

def one(out, case, kind='gpt2'):
    "Train; the run. Only the main process writes."
    lm = tiny_model(kind)
    lm.model.double()
    run = MaxMinPPO(Policy(lm, 2, 4, 1., 8), heads(), **dict(batch=7, lr=1e-2) | (CASES | SHARDED)[case])
    run.train(PROMPTS, 3, out)
    return run

def slow_disk():
    "Every file of the first process takes a tenth of a second more, so that whoever reads one before it is there is caught."
    replace = os.replace
    def slowly(*a): time.sleep(.1); replace(*a)
    if os.environ.get('RANK') == '0': os.replace = slowly

def study(out):
    "A whole study with every kind of stage."
    lm = tiny_model('gpt2')
    lm.model.double()
    s = Settings(replace(get_scale('smoke'), model='tiny-gpt2', steps=2), methods=('single', 'maxmin', 'resample'))
    Study(s, out, lm=lm).run()

def sharded(run):
    "Half of the frozen weights lie here, and an export has all of them."
    held, all_ = (sum(p.numel() for n, p in m.named_parameters() if 'lora_' not in n) for m in (run.policy.net, run.policy.lm.model))
    local = sum(p.to_local().numel() for n, p in run.policy.net.named_parameters() if 'lora_' not in n)
    assert run.processes.sharded and held == all_ and local < .6*all_, (held, local, all_)
    merged = run.policy.merged()
    policy = Policy(run.policy.lm, 2, 4, 1., 8)
    x = policy.read(PROMPTS, ['good', 'a film', 'bad music', 'the plot'])
    policy.load_state(run.policy.state())
    with torch.no_grad(): logits = merged(x.ids[:1]).logits
    assert torch.isfinite(logits).all() and sum(p.numel() for p in merged.parameters()) == all_

if __name__ == '__main__':
    slow_disk()
    for case in sys.argv[2:]:
        if case == 'study': study(f'{sys.argv[1]}/study'); continue
        run = one(f'{sys.argv[1]}/{case}', case)
        mine = np.concatenate([a.ravel() for a in run.policy.state().values()])
        every = run.processes.gather(torch.from_numpy(mine)[None])
        if case in SHARDED: sharded(run)
        assert run.processes.n == 2 and (every == every[0]).all(), 'the processes do not hold the same weights'
