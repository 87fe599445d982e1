"""Whitening, the form of the KL and the value head on SmolLM2-135M: short runs from the same start, prompts and draws.

    python benchmarks/ppo_details.py [steps]

Writes nbs/results/bench/ppo_details.json. Each run is judged on held-out prompts by the learned reward that it was trained on, in standard deviations under the reference,
and by its KL divergence from the reference in nats a response. One seed: differences within two standard errors say nothing.
"""
import sys, time
from pathlib import Path
import numpy as np, torch
from maxmin_nb.core import provenance, write_json
from maxmin_nb.policy import Policy
from maxmin_nb.ppo import PPO
from maxmin_nb.preferences import annotate
from maxmin_nb.reward_models import features, fit_heads
from maxmin_nb.text import brevity, film_prompts, load_model, tone

T, BATCH, SEED, OUT = 16, 16, 0, Path(__file__).parent.parent/'nbs/results/bench/ppo_details.json'


class NoWhitening(PPO):
    "Advantages as they are."
    def whitened(self, adv, mask): return adv, 1.


class NoValue(PPO):
    "The baseline is 0."
    def teach_value(self, ref): self.value.update = lambda *a: None


VARIANTS = {'as it is': (PPO, {}), 'advantages not whitened': (NoWhitening, {}), 'KL in the loss (k3)': (PPO, dict(kl='loss')), 'no value head': (NoValue, {})}


def rewards(policy, prompts):
    "One reward from simulated choices, five people in six for a positive tone and one for brevity; the responses of the reference."
    x = policy.sample(prompts, n=4)
    gold = np.stack([tone(policy.texts(x)), brevity(x.n_words, T)])
    gold = (gold - gold.mean(1, keepdims=True))/gold.std(1, keepdims=True)
    pairs = np.array([(4*p + i, 4*p + j) for p in range(len(prompts)) for i in range(4) for j in range(i)])
    users, chosen, rejected = annotate(np.random.default_rng(SEED), gold, pairs, np.repeat([0, 1], [15, 3]), 40, 2.)
    return fit_heads(features(x, T), chosen, rejected, users, x.row, 1, T, policy.layer, 24), x


def main(steps=6):
    lm = load_model('smollm2-135m')
    start = lambda: Policy(lm, 18, 16, .7, T, SEED)
    prompts, heldout = film_prompts(40, 48)
    heads, reference = rewards(start(), prompts)
    rows = []
    for name, (cls, kw) in VARIANTS.items():
        t = time.process_time()
        run = cls(start(), heads, batch=BATCH, lr=7e-4, beta=.1, seed=SEED, reference=reference, **kw)
        p = run.train(prompts, steps)
        x = p.sample(heldout, step=99)
        r, kl = heads.score(x)[:, 0].numpy(), (p.logprobs(x)[0] - p.logprobs(x, reference=True)[0]).sum(1).numpy()
        se = lambda v: float(v.std(ddof=1)/len(v)**.5)
        rows.append(dict(variant=name, reward=float(r.mean()), reward_se=se(r), kl=float(kl.mean()), kl_se=se(kl), explained=[h['explained'] for h in run.history], clip_fraction=[h['clip_fraction'] for h in run.history],
                         training_reward=[h['reward'][0] for h in run.history], cpu_seconds=round(time.process_time() - t, 1)))
        print(rows[-1], flush=True)
        write_json(OUT, dict(rows=rows, steps=steps, batch=BATCH, longest=T, split=18, lr=7e-4, beta=.1, temperature=.7, seed=SEED, heldout=len(heldout), date=time.strftime('%Y-%m-%d', time.gmtime()), threads=torch.get_num_threads(), **provenance()))


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
