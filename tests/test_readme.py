"The README's example is the library's contract: it runs as it is written, on the tiny model."
import re
from pathlib import Path
import numpy as np
from maxmin_nb.policy import Policy
from maxmin_nb.preferences import Comparisons, annotate
from maxmin_nb.text import brevity, film_prompts, tiny_model, tone

README = Path(__file__).resolve().parent.parent/'README.md'

def test_example_runs(tmp_path, monkeypatch, capsys):
    code, = [b for b in re.findall(r'```py\n(.*?)```', README.read_text(encoding='utf-8'), re.S) if 'Comparisons.load' in b]
    lines = [l for l in code.splitlines() if l and not l.startswith('from')]
    assert len(lines) <= 7
    prompts, _ = film_prompts(12, 8)
    p = Policy(tiny_model(), 2, 4, 1., 32)
    x = p.sample(prompts, n=4, reference=True)
    texts = [t or '.' for t in p.texts(x)]
    gold = np.stack([tone(texts), brevity(x.n_words, 32)])
    pairs = np.array([(4*q + i, 4*q + j) for q in range(12) for i in range(4) for j in range(i)])
    user, good, bad = annotate(np.random.default_rng(0), gold/gold.std(1, keepdims=True), pairs, [0, 0, 0, 1], 30, 3.)
    monkeypatch.chdir(tmp_path)
    Comparisons([f'p{u}' for u in user], [prompts[i//4] for i in good], [texts[i] for i in good], [texts[i] for i in bad]).save('preferences.parquet')
    small = code.replace('smollm2-135m', 'tiny-llama').replace('steps=20', 'steps=1').replace('film_prompts(160, 128)', 'film_prompts(12, 8)')
    assert small.count('tiny-llama') == 1 and 'steps=1)' in small
    exec(compile(small, 'README', 'exec'), {})
    assert 'win rate against the reference' in capsys.readouterr().out and (tmp_path/'my-policy/model.safetensors').exists()
