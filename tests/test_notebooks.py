"""Every notebook runs top to bottom in a fresh kernel at scale smoke, in its own folder. The files stay as they are.
Exercises stop at the first answer that is missing, so they and their solutions have tests of their own (test_exercises.py). `make test-all` runs most of them in the browser, and then not again here."""
import os, time
from pathlib import Path
import nbformat, pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

NBS = Path(__file__).resolve().parent.parent/'nbs'
LIMIT = 300  # seconds for one notebook


@pytest.mark.parametrize('path', [pytest.param(p, id=str(p.relative_to(NBS))) for p in sorted(NBS.rglob('*.ipynb')) if not {'.ipynb_checkpoints', 'exercises', 'solutions'} & set(p.parent.parts)])
def test_runs(path, finished):
    if str(path.relative_to(NBS)) in finished: return       # in the browser, a minute ago
    nb = nbformat.read(path, 4)
    end = time.monotonic() + LIMIT
    client = NotebookClient(nb, timeout_func=lambda cell: max(1, int(end - time.monotonic())), kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'} | {'MAXMIN_SCALE': 'smoke'}
    try: client.execute(env=env)
    except CellTimeoutError as e: pytest.fail(f'{path.name} takes more than {LIMIT} s: {e}', pytrace=False)
    except CellExecutionError as e: pytest.fail(str(e), pytrace=False)
