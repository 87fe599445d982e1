"Log-probabilities, gradients and samples in four bits are those of the unpacked matrices; what is trained is exported as an adapter. `four_bits.py FOLDER`, where bitsandbytes is installed."
import sys
from pathlib import Path
import bitsandbytes as bnb, torch
from maxmin_nb.policy import Policy
from maxmin_nb.tulu2 import load_policy_model

def refused(f, said):
    try: f()
    except ValueError as e: assert said in str(e), e
    else: raise AssertionError(f'not refused: {said}')

out = Path(sys.argv[1])
full, lm = load_policy_model('smollm2-135m'), load_policy_model('smollm2-135m', dtype='4bit')
assert lm.model.get_memory_footprint() < .35*full.model.get_memory_footprint()
packed, changed = dict(lm.model.named_parameters()), 0
with torch.no_grad():
    for n, w in full.model.named_parameters():
        if not hasattr(packed[n], 'quant_state'): continue
        plain = bnb.functional.dequantize_4bit(packed[n].data, packed[n].quant_state)
        changed += not torch.equal(plain, w)
        assert (plain - w).norm() < .15*w.norm(), n         # NF4 keeps a normal number to about a tenth
        w.copy_(plain)
assert changed == 7*30
a, b = (Policy(m, 28, 4, .7, 12, 0) for m in (full, lm))
assert a.net.whole and not b.net.whole
logp = []
for p in (a, b):
    logp.append(p.net('upper', p.read(['The film was', 'I saw'], [' a long and quiet story.', ' it twice.']))[0])
    logp[-1].sum().backward()
assert torch.allclose(*logp, atol=1e-3)
grads = [torch.cat([t.grad.flatten() for n, t in p.trainable.items() if 'lora_B' in n]) for p in (a, b)]
assert torch.allclose(*grads, atol=1e-3*grads[0].abs().max()) and grads[0].norm() > 1
assert a.texts(a.sample(['The film was'], n=4)) == b.texts(b.sample(['The film was'], n=4))
b.export(out/'adapter', adapter=True)
assert (out/'adapter/adapter_model.safetensors').is_file()
refused(lambda: b.export(out/'merged'), 'quantised')
refused(lambda: load_policy_model('tiny-llama', dtype='4bit'), 'made in memory')
print('as the unpacked matrices')
