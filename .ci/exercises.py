"""nbs/exercises is nbs/solutions without the solutions and outputs, as nbgrader's generate_assignment would leave it (nbs/exercises/.notest keeps nbdev_test from running them).
`exercises.py` writes it, `exercises.py --check` only compares."""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
solutions, exercises = root/'nbs/solutions', root/'nbs/exercises'
CODE, TEXT = ['# YOUR CODE HERE', 'raise NotImplementedError()'], 'YOUR ANSWER HERE'

def empty(source, code):
    "`source` with its marked regions replaced by a stub; a solution without a mark is all stub."
    out, inside, found = [], False, False
    for line in source.split('\n'):
        if '### BEGIN SOLUTION' in line:
            inside = found = True
            indent = re.match(r'\s*', line)[0]
            out += [indent + l for l in (CODE if code else [TEXT])]
        elif '### END SOLUTION' in line: inside = False
        elif not inside: out.append(line)
    if inside: raise ValueError(f'a solution begins and does not end: {source[:60]!r}')
    return '\n'.join(out) if found else '\n'.join(CODE) if code else TEXT

def student(path):
    "The student version of one notebook, as text."
    nb = json.loads(path.read_text(encoding='utf-8'))
    for cell in nb['cells']:
        code = cell['cell_type'] == 'code'
        if code: cell.update(outputs=[], execution_count=None)
        if cell['metadata'].get('nbgrader', {}).get('solution'): cell['source'] = empty(''.join(cell['source']), code).splitlines(keepends=True)
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'

if __name__ == '__main__':
    made = {p.name: student(p) for p in sorted(solutions.glob('*.ipynb'))}
    there = {p.name: p.read_text(encoding='utf-8') for p in exercises.glob('*.ipynb')}
    differing = sorted(n for n in made.keys() | there.keys() if made.get(n) != there.get(n))
    if '--check' in sys.argv: sys.exit(f'not what nbs/solutions gives: {", ".join(differing)}; run make exercises' if differing else 0)
    exercises.mkdir(exist_ok=True)
    for n in there.keys() - made.keys(): (exercises/n).unlink()
    for n, text in made.items(): (exercises/n).write_text(text, encoding='utf-8')
