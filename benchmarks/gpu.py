"""MaxMin PPO at the size of Llama-2-7B on one GPU: memory, tokens a second, model-FLOP utilisation, share of each phase.

    python benchmarks/gpu.py [--split S] [--batch B] [--prompt P] [--new T] [--steps N] [--out out.json] [--tiny]

Weights are random and made on the device, bf16; LoRA of rank 16 on layers from S on (0: all of them), value head, reference and two reward heads. The first step is warm-up. Without a GPU it says so and ends.
`--tiny` runs the same code on the CPU at the shape of a toy, to see that it works.
"""
import argparse, time
from datetime import date
import numpy as np, torch
from maxmin_nb.core import provenance, write_json
from maxmin_nb.maxmin_ppo import MaxMinPPO
from maxmin_nb.mixture import RewardMixture
from maxmin_nb.policy import Policy
from maxmin_nb.reward_models import RewardHeads
from maxmin_nb.text import LanguageModel
from ppo_vs_trl import RANK, flops

LLAMA2_7B = dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096)
TINY = dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
DATASHEET = {'H100': 989, 'H200': 989, 'A100': 312, 'L40S': 362}  # dense bf16, TFLOP/s


class RandomPrompts(LanguageModel):
    "Prompts are numbers of rows; their tokens are random."
    eos = 2
    def encode(self, prompt): return np.random.default_rng(int(prompt)).integers(3, self.model.config.vocab_size, self.length).tolist()


def matmul_tflops(device, n):
    "Measured rate of a bf16 matrix product in 10¹² operations a second."
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    def once():
        t = time.perf_counter(); a@a; sync(device)
        return time.perf_counter() - t
    return 2*n**3/min(once() for _ in range(8))/1e12


def sync(device):
    if device.type == 'cuda': torch.cuda.synchronize()


def main():
    from transformers import LlamaConfig, LlamaForCausalLM
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(split=0, batch=32, prompt=64, new=64, steps=3).items(): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--out'); p.add_argument('--tiny', action='store_true')
    o = p.parse_args()
    if not torch.cuda.is_available() and not o.tiny: return print('No GPU was found, so nothing was measured; --tiny tries the code on the CPU.')
    device = torch.device('cpu' if o.tiny else 'cuda')
    with device:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(TINY if o.tiny else LLAMA2_7B), dtype=torch.bfloat16)).to(torch.bfloat16).eval()
    lm = RandomPrompts('random Llama', model, None)
    lm.length = o.prompt
    policy = Policy(lm, o.split, RANK, 1., o.new, rows=o.batch)
    for name in ('sample', 'logprobs'):                                       # a phase ends when the device has done it
        def done(*args, f=getattr(policy, name), **kw):
            out = f(*args, **kw); sync(device)
            return out
        setattr(policy, name, done)
    d = model.config.hidden_size
    heads = RewardHeads(np.random.default_rng(0).normal(size=(d, 2)), np.zeros(2), np.ones(2), o.new, policy.layer,
                        RewardMixture(np.zeros((d, 2)), np.full(2, .5), ['a', 'b'], np.eye(2), 0., 1, 'soft', np.zeros(1)))
    run = MaxMinPPO(policy, heads, batch=o.batch, epochs=2, beta=.1, lr=1e-5)
    run.train([str(i) for i in range(o.batch)], o.steps + 1)
    h = run.history[1:]
    phases = {k: float(np.median([x[f's_{k}'] for x in h])) for k in ('sample', 'reference', 'update')}
    tokens, seconds, rate = float(np.median([x['tokens'] for x in h])), sum(phases.values()), matmul_tflops(device, 512 if o.tiny else 8192)
    need = sum(flops(model.config, o.split, o.batch*o.prompt, tokens))/1e3    # TFLOP a step
    name = 'CPU, a toy shape' if o.tiny else torch.cuda.get_device_name()
    peak = next((v for k, v in DATASHEET.items() if k in name), None)
    result = dict(device=name, date=str(date.today()), seed=0, settings=vars(o), parameters=sum(p.numel() for p in model.parameters()), memory_gb=torch.cuda.max_memory_allocated()/1e9 if device.type == 'cuda' else None,
                  seconds=seconds, phases=phases, tokens_per_s=tokens/seconds, matmul_tflops=rate, tflop=need, utilisation_measured=need/seconds/rate, utilisation_datasheet=need/seconds/peak if peak else None, provenance=provenance())
    print(f"{name}: {result['parameters']/1e9:.2f}·10⁹ parameters, {o.batch} responses of {o.new} tokens to prompts of {o.prompt}, S = {o.split}\n"
          + (f"memory {result['memory_gb']:.1f} GB; " if result['memory_gb'] else '') + f"{seconds:.2f} s a step, {tokens/seconds:.0f} new tokens/s; " + ', '.join(f'{k} {v/seconds:.0%}' for k, v in phases.items())
          + f"\nmodel-FLOP utilisation {need/seconds/rate:.1%} of the {rate:.1f} TFLOP/s of a matrix product measured here" + (f", {need/seconds/peak:.1%} of the data sheet's {peak}" if peak else ''))
    if o.out: write_json(o.out, result)


if __name__ == '__main__': main()
