"""The planner of chapter 15 against the peak of a process's memory.

    python benchmarks/plan_check.py [--out nbs/results/bench/plan_check.json] [--only NAME]

Each model is made in a process of its own, which trains a MaxMin policy for two steps; the peak of its resident memory is compared with what the process had
with its libraries loaded and no model. The allocator is told to give freed blocks back (MALLOC_MMAP_THRESHOLD_=262144); by default it keeps many, and that peak is noted too. Random Llamas are made with a shape that is given here; SmolLM2-135M is read from the cache, and its file counts while it is read.
"""
import argparse, json, os, resource, subprocess, sys, time
from dataclasses import replace

MODELS = {  # shape, sizes
    'smollm2-135m': (None, dict(batch=16, minibatch=16, max_new_tokens=48, split=18, n_prompts=32)),
    'random Llama, every layer': ((768, 8, 2048, 768, 32000), dict(batch=8, minibatch=8, max_new_tokens=48, split=0, n_prompts=16)),
    'random Llama, small minibatch': ((1024, 8, 2752, 1024, 32000), dict(batch=16, minibatch=4, max_new_tokens=32, split=0, n_prompts=16))}


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024


def now():
    with open('/proc/self/statm') as f: return int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')


def one(name):
    import numpy as np, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from maxmin_nb.maxmin_ppo import MaxMinPPO
    from maxmin_nb.mixture import RewardMixture
    from maxmin_nb.policy import Policy
    from maxmin_nb.reward_models import RewardHeads
    from maxmin_nb.text import LanguageModel, load_model, tiny_model
    from maxmin_nb.tulu2 import Shape, plan_memory, shape_of, tulu2_scale
    shape, sizes = MODELS[name]
    c = replace(tulu2_scale('laptop'), **sizes)
    width = 20                                             # tokens of a prompt

    class Numbers(LanguageModel):
        "Prompts are numbers; their tokens are random, and the end token is one that is hardly ever drawn."
        eos = 0
        def encode(self, prompt): return np.random.default_rng(int(prompt)).integers(3, self.model.config.vocab_size, width).tolist()

    marks = []
    def steps(lm, c):
        policy = Policy(lm, c.split, c.lora_r, c.temperature, c.max_new_tokens, 0)
        d = lm.model.config.hidden_size
        heads = RewardHeads(np.random.default_rng(0).normal(size=(d, 2)), np.zeros(2), np.ones(2), c.max_new_tokens, policy.layer,
                            RewardMixture(np.zeros((d, 2)), np.full(2, .5), ['a', 'b'], np.eye(2), 0., 1, 'soft', np.zeros(1)))
        prompts = [str(i) for i in range(c.n_prompts)]
        reference = policy.sample(prompts, c.n_responses, reference=True)
        marks.append(peak())
        MaxMinPPO(policy, heads, batch=c.batch, minibatch=c.minibatch, epochs=2, beta=c.beta, lr=c.lr, reference=reference).train(prompts, 2)

    tiny = tiny_model()
    steps(Numbers('tiny', tiny.model, None), replace(c, batch=4, minibatch=4, n_prompts=4, split=2, max_new_tokens=8))   # every library is loaded and has run
    base = now()
    if shape:
        d, layers, ff, kv, vocab = shape
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(hidden_size=d, num_hidden_layers=layers, intermediate_size=ff, num_attention_heads=d//64, num_key_value_heads=kv//64, vocab_size=vocab, max_position_embeddings=256)).eval()
    else: model = load_model(name).model
    assert shape is None or shape_of(model.config) == Shape(*shape)
    loaded = peak()
    t = time.perf_counter()
    steps(Numbers(name, model, None), c)
    p = plan_memory(shape_of(model.config), c, 'float32', width)
    planned, measured = p['peak'] + p['host'], peak() - base
    print(json.dumps(dict(model=name, parameters=model.num_parameters(), sizes=sizes, planned_gb=planned/1e9, measured_gb=measured/1e9, ratio=planned/measured, libraries_gb=base/1e9, peak_gb=peak()/1e9, peak_after_loading_gb=loaded/1e9, peak_after_reference_gb=marks[-1]/1e9,
                          total_ratio=(planned + base)/peak(), parts_mb={k: round(v/1e6, 1) for k, v in p.items()}, seconds=round(time.perf_counter() - t, 1))))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out'); p.add_argument('--only'); p.add_argument('--child')
    a = p.parse_args()
    if a.child: return one(a.child)
    from maxmin_nb.core import provenance, write_json
    rows = []
    for name in [a.only] if a.only else MODELS:
        def child(**env):
            done = subprocess.run([sys.executable, __file__, '--child', name], capture_output=True, text=True, env=os.environ | {'MAXMIN_QUIET': '1'} | env)
            if done.returncode: sys.exit(done.stderr)
            return json.loads(done.stdout.splitlines()[-1])
        r = child(MALLOC_ARENA_MAX='1', MALLOC_MMAP_THRESHOLD_='262144')
        r['measured_by_default_gb'] = child()['measured_gb']
        rows.append(r)
        print(f"{r['model']:30s} after loading {r['peak_after_loading_gb'] - r['libraries_gb']:.2f}, after the reference's samples {r['peak_after_reference_gb'] - r['libraries_gb']:.2f}; planned {r['planned_gb']:.2f} GB, measured {r['measured_gb']:.2f} GB: {r['ratio']:.2f}; with the libraries {r['total_ratio']:.2f}; {r['measured_by_default_gb']:.2f} GB with the allocator's defaults; {r['seconds']} s", flush=True)
    if a.out: write_json(a.out, dict(models=rows, seed=0, date=time.strftime('%Y-%m-%d', time.gmtime()), provenance=provenance()))


if __name__ == '__main__': main()
