"Processes forked from one that has only imported, so that each begins at once."
import multiprocessing, os
from multiprocessing.forkserver import ensure_running
from pathlib import Path

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['fault_child', 'fit_once'])

def process(target, *args):
    "A started process that runs `target(*args)`."
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))     # where the server finds what it imports
    ensure_running()
    if before is None: del os.environ['PYTHONPATH']
    else: os.environ['PYTHONPATH'] = before
    p = context.Process(target=target, args=args)
    p.start()
    return p
