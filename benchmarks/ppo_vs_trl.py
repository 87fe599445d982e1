"""One PPO step of ours against TRL's trainers, interleaved in one run on two cores: seconds, peak memory, share of the matrix-multiply roofline.

    python benchmarks/ppo_vs_trl.py [rounds] [out.json]

A step is sampling, reference and two epochs of updates: SmolLM2-135M, LoRA of rank 16 on every linear layer, 32 responses of 24 tokens to prompts of 3 to 6 tokens, float32.
Ours has a value head, a reference and two reward heads; S = 0 adapts every layer (the same work), S = 18 is the split of scale laptop. Theirs: TRL 1.16 GRPO (8 prompts × 4 responses, one reward
that costs nothing, no value model) and TRL 1.12 PPO (the last release that has it; a value and a reward model of the same size). Each peer gets an environment of its own in the cache folder, which
shares torch and transformers with this one; a peer that cannot be installed is left out with a sentence. Every contestant is a process that waits for its turn: A B C D A B C D …, after one step of warm-up.
"""
import json, os, statistics, subprocess, sys, time, venv
from pathlib import Path

THREADS, ROWS, T, RANK = 2, 32, 24, 16
PROMPTS = [f'{a} {b}' for a in ('The movie was', 'This film is', 'I think it', 'The plot felt') for b in ('', 'very', 'so', 'not that', 'rather', 'far too', 'a little', 'almost')]
PROMPTS = [p.strip() for p in PROMPTS]
PEERS = {'TRL 1.16 GRPO': ('grpo', 'trl==1.16.0'), 'TRL 1.12 PPO': ('ppo', 'trl==1.12.0')}
OURS = {'ours, S = 0': 0, 'ours, S = 18': 18}


# --- the contestants, each in a process of its own
class Turn:
    "Waits for its turn, and tells how long the step took and the peak memory."
    def __init__(self): self.start, self.out = None, os.fdopen(os.dup(1), 'w'); os.dup2(2, 1)  # what a trainer prints does not mix with the reports
    def __call__(self, **more):
        import resource
        took = 0. if self.start is None else time.perf_counter() - self.start
        print(json.dumps(dict(seconds=took, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, **more)), file=self.out, flush=True)
        if not sys.stdin.readline().strip(): os._exit(0)
        self.start = time.perf_counter()


def every(turn, n):
    "A callback of transformers' trainers: take turns after every n optimiser steps."
    from transformers import TrainerCallback
    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__): turn()
        def on_step_end(self, args, state, *_, **__):
            if state.global_step%n == 0: turn()
    return Turns()


def common(folder, **kw):
    return dict(output_dir=str(Path(folder).parent/'trl-out'), per_device_train_batch_size=ROWS, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to='none',
                save_strategy='no', logging_strategy='no', disable_tqdm=True, seed=0, temperature=1., **kw)


def lora():
    from peft import LoraConfig
    return LoraConfig(r=RANK, lora_alpha=2*RANK, target_modules='all-linear', task_type='CAUSAL_LM')


def load(folder, cls):
    import torch
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(folder)
    tok.padding_side = 'left'
    return cls.from_pretrained(folder, dtype=torch.float32), tok


def grpo(folder):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer
    model, tok = load(folder, AutoModelForCausalLM)
    args = GRPOConfig(**common(folder, num_generations=4, num_iterations=2, max_completion_length=T, beta=.1, max_steps=1000))
    GRPOTrainer(model, lambda completions, **_: [float(len(c)) for c in completions], args, train_dataset=Dataset.from_dict(dict(prompt=PROMPTS)), processing_class=tok,
                peft_config=lora(), callbacks=[every(Turn(), 2)]).train()


def ppo(folder):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer
    model, tok = load(folder, AutoModelForCausalLM)
    judge = lambda: AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=model.dtype)
    args = PPOConfig(**common(folder, num_ppo_epochs=2, num_mini_batches=1, response_length=T, kl_coef=.1, local_rollout_forward_batch_size=ROWS, total_episodes=1000*ROWS, num_sample_generations=0))
    PPOTrainer(args, tok, model, None, judge(), Dataset.from_dict(dict(input_ids=[tok(p)['input_ids'] for p in PROMPTS])), judge(), peft_config=lora(), callbacks=[every(Turn(), 1)]).train()


def ours(S):
    import numpy as np
    from maxmin_nb.maxmin_ppo import MaxMinPPO
    from maxmin_nb.mixture import RewardMixture
    from maxmin_nb.policy import Policy
    from maxmin_nb.reward_models import RewardHeads
    from maxmin_nb.text import load_model
    lm = load_model('smollm2-135m')
    lm.tokenizer.chat_template = None                                        # prompts as they stand, as the peers read them
    policy = Policy(lm, S, RANK, 1., T)
    d, turn = lm.model.config.hidden_size, Turn()
    phi = np.random.default_rng(0).normal(size=(d, 2))
    heads = RewardHeads(phi, np.zeros(2), np.ones(2), T, policy.layer, RewardMixture(np.zeros((d, 2)), np.full(2, .5), ['a', 'b'], np.eye(2), 0., 1, 'soft', np.zeros(1)))
    class Timed(MaxMinPPO):
        def step(self, *args, **kw):
            turn(**{k: v for k, v in (self.history[-1] if self.history else {}).items() if k in ('s_sample', 's_reference', 's_update', 'tokens')})
            return super().step(*args, **kw)
    Timed(policy, heads, batch=ROWS, epochs=2, beta=.1, lr=1e-5).train(PROMPTS, 1000)


# --- the race
def environment(name, package):
    "Python of an environment that holds `package` and shares the rest with this one; None where it cannot be made."
    import torch
    from maxmin_nb.core import cache_dir
    folder = cache_dir()/'peers'/package.replace('==', '-')
    python = folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if not (folder/'ready').is_file():
        venv.create(folder, with_pip=True, clear=True)
        site = subprocess.run([python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
        (Path(site)/'project.pth').write_text(str(Path(torch.__file__).parent.parent))
        done = subprocess.run([python, '-m', 'pip', 'install', '-q', package, '-c', Path(__file__).resolve().parent.parent/'constraints.txt'], capture_output=True, text=True)
        if done.returncode:
            print(f'{name} is left out: {package} could not be installed ({(done.stderr.strip().splitlines() or ["no reason given"])[-1]})')
            return None
        (folder/'ready').touch()
    return python


class Contestant:
    def __init__(self, name, python, *args):
        self.name, self.reports, self.log = name, [], open(os.devnull, 'w') if not os.environ.get('LOUD') else None
        env = os.environ | dict(OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS), TRL_EXPERIMENTAL_SILENCE='1', HF_HUB_OFFLINE='1')
        self.process = subprocess.Popen([python, __file__, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        self.read()
    def read(self):
        line = self.process.stdout.readline()
        if not line: raise SystemExit(f'{self.name} ended early; run again with LOUD=1 to see why')
        self.reports.append(json.loads(line))
    def step(self): self.process.stdin.write('go\n'); self.process.stdin.flush(); self.read()
    def close(self): self.process.stdin.close(); self.process.wait(60)


def flops(config, S, prompt, response):
    "Multiplications and additions, times 10⁹, that one of our steps needs: (sampling, reference, updates). `prompt` and `response` are numbers of tokens."
    d, f, L, V = config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size
    kv = d*config.num_key_value_heads//config.num_attention_heads
    shapes = [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]
    layer, adapter, vocab = 2*sum(a*b for a, b in shapes), 2*RANK*sum(a + b for a, b in shapes), 2*d*V
    forward = lambda layers: (prompt + response)*layers*layer + response*vocab
    update = 2*forward(L - S) + (prompt + response)*(L - S)*2*adapter         # gradients of frozen weights are not needed
    return [x/1e9 for x in (forward(L), forward(L - S), 2*update)]


def main(rounds=5, out=None):
    from datetime import date
    from transformers import AutoConfig, AutoTokenizer
    from maxmin_nb.core import matmul_gflops, provenance, write_json
    from maxmin_nb.text import fetch_smollm2
    import torch
    torch.set_num_threads(THREADS)
    folder = fetch_smollm2()
    racers = []
    for name, (worker, package) in PEERS.items():
        if (python := environment(name, package)): racers.append(Contestant(name, python, '--worker', worker, folder))
    racers += [Contestant(name, sys.executable, '--worker', 'ours', S) for name, S in OURS.items()]
    rates, loads = [], []
    for i in range(rounds + 1):                                               # the first is warm-up
        rates.append(matmul_gflops()); loads.append(os.getloadavg()[0])
        for r in racers: r.step()
        print(f'round {i}: {rates[-1]:.0f} GFLOP/s, load {loads[-1]:.1f}; ' + ', '.join(f"{r.name} {r.reports[-1]['seconds']:.1f} s" for r in racers), flush=True)
    for r in racers: r.close()
    tok, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    prompt, rate = sum(len(tok(p)['input_ids']) for p in PROMPTS), statistics.median(rates)
    result = dict(work=dict(rows=ROWS, T=T, rank=RANK, epochs=2, prompt_tokens=prompt, rounds=rounds, threads=THREADS), date=str(date.today()), seed=0, provenance=provenance(),
                  peers={n: p for n, (_, p) in PEERS.items()}, gflops_each_round=rates, load_each_round=loads, contestants={})
    for r in racers:
        s = [x['seconds'] for x in r.reports[2:]]
        c = result['contestants'][r.name] = dict(seconds=s, median=statistics.median(s), peak_mb=r.reports[-1]['peak_mb'])
        if r.name in OURS:
            mean = {k: statistics.median([x[k] for x in r.reports[2:]]) for k in ('s_sample', 's_reference', 's_update', 'tokens')}
            need = flops(config, OURS[r.name], prompt, mean['tokens'])
            c |= mean | dict(gflop=need, roofline=sum(need)/rate/c['median'], roofline_phases=[g/rate/mean[k] for g, k in zip(need, ('s_sample', 's_reference', 's_update'))])
    for name in OURS:
        for peer in set(PEERS) & set(result['contestants']):
            a, b = result['contestants'][name], result['contestants'][peer]
            each = [x/y for x, y in zip(a['seconds'], b['seconds'])]
            a[f'ratio to {peer}'] = dict(median=statistics.median(each), least=min(each), most=max(each), memory=a['peak_mb']/b['peak_mb'])
    for n, c in result['contestants'].items():
        print(f"{n}: {c['median']:.1f} s ({min(c['seconds']):.1f} to {max(c['seconds']):.1f}), peak {c['peak_mb']:.0f} MB" + (f", {c['roofline']:.0%} of {rate:.0f} GFLOP/s" if 'roofline' in c else '')
              + ''.join(f"; {k} {v['median']:.2f} ({v['least']:.2f} to {v['most']:.2f}), memory {v['memory']:.2f}" for k, v in c.items() if k.startswith('ratio')))
    if out: write_json(out, result)


if __name__ == '__main__':
    if '--worker' in sys.argv:
        import torch
        torch.set_num_threads(THREADS)
        kind, arg = sys.argv[2:4]
        ours(int(arg)) if kind == 'ours' else dict(grpo=grpo, ppo=ppo)[kind](arg)
    else: main(*[int(a) if a.isdigit() else a for a in sys.argv[1:]])
