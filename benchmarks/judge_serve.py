"""SmolLM2-135M-Instruct behind `transformers serve` as a judge of conciseness: how many answers parse, what place it likes, whether it agrees with the formula.

    python benchmarks/judge_serve.py [nbs/results/bench/judge_serve.json] [pairs]

Needs transformers[serving]. The pairs are a short and a long true answer to each instruction, so that the formula's verdict is beyond doubt; every answer is greedy.
"""
import contextlib, datetime, os, signal, socket, subprocess, sys, time, urllib.request
import numpy as np
from maxmin_nb.core import provenance, write_json
from maxmin_nb.judges import CRITERIA, ChatJudge, Endpoint, agreement, gold_judge, instruction_prompts
from maxmin_nb.policy import Policy
from maxmin_nb.text import fetch_smollm2, load_model


@contextlib.contextmanager
def serve(folder):
    "`transformers serve` on a free port of this computer; yields its address."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    cmd = [sys.executable, '-m', 'transformers.cli.transformers', 'serve', str(folder), '--host', '127.0.0.1', '--port', str(port), '--device', 'cpu']
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {'HF_HUB_OFFLINE': '1'}, start_new_session=True)
    try:
        while True:
            if p.poll() is not None: sys.exit('transformers serve ended; is transformers[serving] installed?')
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=5).read(); break
            except OSError: time.sleep(.3)
        yield f'http://127.0.0.1:{port}/v1'
    finally: os.killpg(p.pid, signal.SIGTERM); p.wait(30)


def main(out='nbs/results/bench/judge_serve.json', n='20'):
    prompts = instruction_prompts()[1][:int(n)]
    lm = load_model('smollm2-135m')
    short, long = (Policy(lm, 18, 4, .3, t).texts(Policy(lm, 18, 4, .3, t).sample(prompts, reference=True)) for t in (12, 48))
    folder = fetch_smollm2()
    start = time.perf_counter()
    with serve(folder) as url:
        e = Endpoint(url, str(folder), timeout=300., max_tokens=8)
        j = ChatJudge(e, CRITERIA['P2A'], 'SmolLM2-135M', workers=1).compare(prompts, short, long)
    seconds = time.perf_counter() - start
    first = np.array([j.first, j.second])
    parsed = int(np.isfinite(first).sum())
    # what is shown first wins: verdict 1 in the first order, 0 in the second
    shown_first = int((first[0] == 1).sum() + (first[1] == 0).sum())
    both = int(np.isfinite(j.verdict).sum())
    formula = gold_judge('P2A').compare(prompts, short, long)
    r = agreement(j, formula) if both and len({p for p, v in zip(prompts, j.verdict) if np.isfinite(v)}) > 1 else None
    result = dict(questions=j.asked, parsed=parsed, first_place=shown_first, decided_pairs=both, contradictions=int((first[0] != first[1])[np.isfinite(j.verdict)].sum()),
                  agreement=r and r['agree'], formula_short_wins=float(np.mean(formula.verdict == 1)), unparsed=[u[2] for u in j.unparsed[:3]],
                  seconds_a_question=seconds/j.asked, seed=0, date=datetime.date.today().isoformat(), provenance=provenance())
    write_json(out, result)
    print(result)

if __name__ == '__main__': main(*sys.argv[1:])
