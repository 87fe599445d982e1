import os, pytest
from hypothesis import settings

os.environ.setdefault('MAXMIN_SCALE', 'smoke')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # matrices are small here, and threads that wait for a busy core cost ten times the work
# No deadlines: machines differ by a factor of two. Continuous integration draws the same examples every time, a developer's machine new ones.
settings.register_profile('maxmin', deadline=None, print_blob=True, derandomize=bool(os.environ.get('CI')))
settings.load_profile('maxmin')


def pytest_collection_modifyitems(items):
    "What takes seconds first; the notebooks last."
    items.sort(key=lambda i: i.path.name == 'test_notebooks.py')


@pytest.fixture(scope='session')
def finished():
    "Notebooks that ran from top to bottom at scale smoke in this session without an error: once is enough."
    return set()
