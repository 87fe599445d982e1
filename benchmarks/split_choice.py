"""Which split? Seconds to the same mean gold reward, and the KL paid for it, for S = 0, 12, 18, 24 at the settings of scale laptop.

    python benchmarks/split_choice.py [steps] [out.json] [seeds]

The reward is the gold itself, tone and brevity in standard deviations under the reference, weighted .83 to .17 and paid at the last token, so that the splits differ in nothing but what they train. A run's reward and KL are
those of its own training responses, mean of three steps; curves are means over the seeds (default 0,1,2). Runs that the file holds are not repeated. Seconds are processor seconds of both cores together, those of the first
seed's steps, which should run on a quiet machine; the others may not.
"""
import sys, time
from datetime import date
from itertools import product
from pathlib import Path
import numpy as np, torch
from maxmin_nb.core import get_scale, provenance, read_json, write_json
from maxmin_nb.mixture import RewardMixture
from maxmin_nb.policy import Policy
from maxmin_nb.ppo import PPO
from maxmin_nb.reward_models import RewardHeads
from maxmin_nb.text import brevity, film_prompts, load_model, tone

SHARES = np.array([.83, .17])


class Gold(RewardHeads):
    "Tone and brevity themselves, standardised, paid at the last token."
    def raw(self, rollout): return np.stack([tone(self.policy.texts(rollout)), brevity(rollout.n_words.numpy(), self.longest)], 1)
    def tokens(self, rollout):
        gold = torch.as_tensor((self.raw(rollout) - self.mean)/self.sd, dtype=torch.float32)
        m = rollout.actions
        last = torch.arange(m.shape[1]) == m.sum(1, keepdim=True) - 1
        return gold[:, :, None]*last[:, None]


def gold(policy, reference):
    d = policy.lm.model.config.hidden_size
    heads = Gold(np.zeros((d, 2)), np.zeros(2), np.ones(2), policy.T, policy.layer, RewardMixture(np.zeros((d, 2)), SHARES, ['tone', 'brevity'], np.eye(2), 0., 1, 'soft', np.zeros(1)))
    heads.policy = policy
    raw = heads.raw(reference)
    heads.mean, heads.sd = raw.mean(0), raw.std(0)
    return heads


class Clocked(PPO):
    def step(self, *args, **kw):
        cpu, wall = time.process_time(), time.perf_counter()
        return super().step(*args, **kw) | dict(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)


def curve(lm, S, seed, steps, prompts, c):
    "One run: reward, KL and seconds of each step."
    policy = Policy(lm, S, c.lora_r, c.temperature, c.max_new_tokens, seed)
    reference = policy.sample(prompts[:48], n=2, step=0, reference=True)
    run = Clocked(policy, gold(policy, reference), batch=c.batch, epochs=c.epochs, lr=c.lr, beta=c.beta, reference=reference, seed=seed)
    run.train(prompts, steps, desc=f'S = {S}, seed {seed}')
    return dict(S=S, seed=seed, reward=[float(SHARES@h['reward']) for h in run.history], by_group=[h['reward'] for h in run.history], kl=[h['kl'] for h in run.history],
                cpu=[h['cpu'] for h in run.history], wall=[h['wall'] for h in run.history])


def smooth(x): return np.convolve(x, np.ones(3)/3, 'valid')


def between(x, i, a): return float(x[i] if i == 0 else x[i - 1] + a*(x[i] - x[i - 1]))


def reach(reward, kl, s_step, target):
    "(seconds, KL) where a smoothed curve first reaches the target, on the line between two steps; None where it never does."
    over = np.flatnonzero(reward >= target)
    if len(over) == 0: return None
    i = over[0]
    a = 1. if i == 0 else (target - reward[i - 1])/(reward[i] - reward[i - 1])
    return s_step*between(np.arange(2, len(reward) + 2), i, a), between(kl, i, a)


def at_kl(reward, kl, level):
    "Reward where a smoothed curve first passes a KL; None where it never does."
    over = np.flatnonzero(kl >= level)
    if len(over) == 0 or over[0] == 0: return None
    i = over[0]
    return between(reward, i, (level - kl[i - 1])/(kl[i] - kl[i - 1]))


def summary(runs):
    "By split: processor seconds a step, (seconds, KL) to half and to nine tenths of the reward that all splits reach, rewards at a KL, and the rewards of the last three steps by seed."
    rows = {S: [r for r in runs if r['S'] == S] for S in dict.fromkeys(r['S'] for r in runs)}
    mean = {S: [smooth(np.mean([r[k] for r in rs], 0)) for k in ('reward', 'kl')] for S, rs in rows.items()}
    best = min(r.max() for r, _ in mean.values())
    cost = {S: float(np.median(rs[0]['cpu'])) for S, rs in rows.items()}
    return {str(S): dict(s_step=cost[S], reach={f'{f*best:.3f}': reach(*mean[S], cost[S], f*best) for f in (.5, .9)}, at_kl={str(k): at_kl(*mean[S], k) for k in (.5, 1, 1.25)},
                         last=[float(smooth(r['reward'])[-1]) for r in rows[S]], last_kl=[float(smooth(r['kl'])[-1]) for r in rows[S]]) for S in sorted(rows)}


def main(steps=8, out=None, seeds='0,1,2'):
    torch.set_num_threads(2)
    c, lm, seeds = get_scale('laptop'), load_model('smollm2-135m'), [int(s) for s in str(seeds).split(',')]
    prompts, _ = film_prompts(c.n_prompts, c.n_heldout)
    runs = read_json(out)['runs'] if out and Path(out).is_file() else []
    for seed, S in product(seeds, (18, 0, 24, 12)):
        if any(r['S'] == S and r['seed'] == seed for r in runs): continue
        runs.append(curve(lm, S, seed, steps, prompts, c))
        if out: write_json(out, dict(steps=steps, date=str(date.today()), settings=c, provenance=provenance(), runs=runs, table=summary(runs)))
    for S, row in summary(runs).items():
        print(f"S = {S}: {row['s_step']:.1f} processor seconds a step; " + '; '.join(f"reward {t}: " + (f"{v[0]:.0f} processor s, KL {v[1]:.2f}" if v else 'not reached') for t, v in row['reach'].items())
              + '; at KL ' + ', '.join(f"{k}: {'-' if v is None else f'{v:.2f}'}" for k, v in row['at_kl'].items()) + '; last three steps by seed ' + ', '.join(f'{x:.2f}' for x in row['last']))


if __name__ == '__main__': main(*[int(a) if a.isdigit() else a for a in sys.argv[1:]])
