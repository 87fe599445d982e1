import os
import pytest
from hypothesis import settings

os.environ.setdefault('MAXMIN_SCALE', 'smoke')
settings.register_profile('maxmin', deadline=None, print_blob=True)  # machines differ by a factor of two, and so would deadlines
settings.load_profile('maxmin')


def pytest_collection_modifyitems(items):
    "What takes seconds first; the notebooks last."
    items.sort(key=lambda i: i.path.name == 'test_notebooks.py')
