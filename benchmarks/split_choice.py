"""Which split? Seconds to the same mean gold reward, and the KL paid for it, for S = 0, 12, 18, 24 at the settings of scale laptop.

    python benchmarks/split_choice.py [steps] [out.json] [S …]

The reward is the gold itself, tone and brevity in standard deviations under the reference, weighted .83 to .17 and paid at the last token, so that the splits differ in nothing but what they train. Runs follow each other at one
seed; a run's reward and KL are those of its own training responses, mean of three steps. Seconds are processor seconds of both cores together, which other work on the machine disturbs little; wall seconds stand beside them.
"""
import sys, time
from datetime import date
import numpy as np, torch
from maxmin_nb.core import get_scale, provenance, write_json
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


def curve(lm, S, steps, prompts, c):
    "One run: reward, KL and seconds after each step."
    policy = Policy(lm, S, c.lora_r, c.temperature, c.max_new_tokens)
    reference = policy.sample(prompts[:48], n=2, step=0, reference=True)
    run = Clocked(policy, gold(policy, reference), batch=c.batch, epochs=c.epochs, lr=c.lr, beta=c.beta, reference=reference)
    run.train(prompts, steps, desc=f'S = {S}')
    return dict(S=S, reward=[float(SHARES@h['reward']) for h in run.history], by_group=[h['reward'] for h in run.history], kl=[h['kl'] for h in run.history],
                cpu=np.cumsum([h['cpu'] for h in run.history]).tolist(), wall=np.cumsum([h['wall'] for h in run.history]).tolist(), s_step=float(np.median([h['wall'] for h in run.history])))


def smooth(x): return np.convolve(x, np.ones(3)/3, 'valid')


def reach(run, target):
    "(seconds, wall seconds, KL) when the smoothed reward first reaches the target, on the line between two steps; None where it never does."
    r, hit = smooth(run['reward']), None
    for i in range(len(r)):
        if r[i] >= target:
            a = 1. if i == 0 else (target - r[i - 1])/(r[i] - r[i - 1])
            mix = lambda x: float(x[i] if i == 0 else x[i - 1] + a*(x[i] - x[i - 1]))
            return mix(run['cpu'][1:-1]), mix(run['wall'][1:-1]), mix(smooth(run['kl']))


def at_kl(run, level):
    "Smoothed reward where the smoothed KL first passes a level; None where it never does."
    k, r = smooth(run['kl']), smooth(run['reward'])
    over = np.flatnonzero(k >= level)
    if len(over) == 0 or over[0] == 0: return None
    i = over[0]
    return float(r[i - 1] + (level - k[i - 1])/(k[i] - k[i - 1])*(r[i] - r[i - 1]))


def main(steps=12, out=None, *splits):
    torch.set_num_threads(2)
    c, lm = get_scale('laptop'), load_model('smollm2-135m')
    prompts, _ = film_prompts(c.n_prompts, c.n_heldout)
    runs = []
    for S in splits or (18, 0, 24, 12):
        runs.append(curve(lm, S, steps, prompts, c))
        best = min(smooth(r['reward']).max() for r in runs)
        targets = [round(f*float(best), 3) for f in (.5, .9)]
        table = {str(r['S']): dict(reach={str(t): reach(r, t) for t in targets}, at_kl={str(k): at_kl(r, k) for k in (.5, 1, 2)}) for r in runs}
        if out: write_json(out, dict(steps=steps, date=str(date.today()), seed=0, settings=c, provenance=provenance(), runs=runs, targets=targets, table=table))
    for r in runs:
        row = table[str(r['S'])]
        print(f"S = {r['S']}: {r['cpu'][-1]/steps:.1f} processor seconds a step; " + '; '.join(f"reward {t}: " + (f"{v[0]:.0f} processor s, KL {v[2]:.2f}" if v else 'not reached') for t, v in row['reach'].items())
              + '; at KL ' + ', '.join(f"{k}: {'-' if v is None else f'{v:.2f}'}" for k, v in row['at_kl'].items()))


if __name__ == '__main__': main(*[int(a) if a.isdigit() else a for a in sys.argv[1:]])
