"""What makes a finding: dotted names, by kind. A table, so that it can be read and argued about.

A name ending in `.*` stands for everything below it. The lists say where to look; absence from them proves nothing.
"""

from __future__ import annotations

PROCESS, NETWORK, FILES, NATIVE = "process", "network", "file write", "native code"
EVAL, PICKLE, DYNAMIC, DOWNLOAD = "eval/exec", "pickle", "dynamic import", "download"
ENVIRONMENT, HIDDEN, BUILTINS, PATCH, STATE = (
    "environment",
    "hidden text",
    "interpreter internals",
    "monkey patch",
    "global state",
)

KINDS = (PROCESS, NETWORK, FILES, NATIVE, EVAL, PICKLE, DYNAMIC, DOWNLOAD, ENVIRONMENT, HIDDEN, BUILTINS, PATCH, STATE)

_TABLE: dict[str, str] = {
    PROCESS: """os.system os.popen os.fork os.forkpty os.kill os.killpg os.posix_spawn os.posix_spawnp os.startfile
        os.execl os.execle os.execlp os.execlpe os.execv os.execve os.execvp os.execvpe os.spawnl os.spawnle os.spawnlp
        os.spawnlpe os.spawnv os.spawnve os.spawnvp os.spawnvpe subprocess.* pty.* pexpect.* commands.* sh.* plumbum.*
        multiprocessing.Process multiprocessing.Pool multiprocessing.spawn multiprocessing.context.*
        concurrent.futures.ProcessPoolExecutor asyncio.create_subprocess_exec asyncio.create_subprocess_shell
        torch.multiprocessing.spawn torch.multiprocessing.Process signal.* atexit.register posix.* nt.* webbrowser.*
        platform.popen sys.exit os._exit os.abort""",
    NETWORK: """socket.* ssl.* http.* urllib.request.* urllib2.* urllib3.* requests.* httpx.* aiohttp.* websocket.*
        websockets.* ftplib.* smtplib.* telnetlib.* imaplib.* poplib.* nntplib.* xmlrpc.* paramiko.* asyncssh.* zmq.*
        grpc.* pycurl.* asyncio.open_connection asyncio.start_server socketserver.* boto3.* botocore.* wget.*
        gdown.* fsspec.* smart_open.*""",
    FILES: """os.remove os.unlink os.rename os.renames os.replace os.mkdir os.makedirs os.rmdir os.removedirs os.symlink
        os.link os.chmod os.chown os.truncate os.mkfifo os.mknod os.open os.write os.fdopen os.utime os.chdir shutil.*
        tempfile.* zipfile.* tarfile.* sqlite3.* dbm.* torch.save numpy.save numpy.savez numpy.savez_compressed
        numpy.savetxt numpy.memmap safetensors.torch.save_file safetensors.numpy.save_file pathlib.Path().write_text
        pathlib.Path().write_bytes pathlib.Path().unlink pathlib.Path().mkdir pathlib.Path().touch
        pathlib.Path().rename pathlib.Path().replace pathlib.Path().rmdir pathlib.Path().symlink_to
        pathlib.Path().chmod joblib.dump logging.FileHandler""",
    NATIVE: """ctypes.* _ctypes.* cffi.* torch.ops.load_library torch.classes.load_library torch.utils.cpp_extension.*
        cupy.RawKernel cupy.RawModule cupy.cuda.* pycuda.* pyximport.* cython.inline numba.* llvmlite.* triton.jit
        triton.autotune torch.utils.dlpack.* kernels.get_kernel kernels.use_kernel_forward_from_hub mmap.mmap
        numpy.ctypeslib.* tvm.* jnius.*""",
    EVAL: """builtins.eval builtins.exec builtins.compile types.FunctionType types.CodeType types.LambdaType
        code.interact code.InteractiveInterpreter codeop.* timeit.timeit pdb.* runpy.* marshal.loads marshal.load
        torch.jit.CompilationUnit torch.jit.load ast.unparse pandas.eval numexpr.* builtins.breakpoint
        torch.package.* dataclasses.make_dataclass""",
    PICKLE: """pickle.load pickle.loads pickle.Unpickler pickle._Unpickler _pickle.* cPickle.*
        dill.load dill.loads dill.Unpickler
        cloudpickle.load cloudpickle.loads joblib.load shelve.open pandas.read_pickle torch.serialization.load
        jsonpickle.* yaml.load yaml.unsafe_load yaml.full_load pickletools.* copyreg.*""",
    DYNAMIC: """builtins.__import__ importlib.* imp.* zipimport.* pkgutil.* sys.path sys.meta_path sys.path_hooks
        sys.modules pip.* pkg_resources.* ensurepip.* site.* transformers.dynamic_module_utils.*""",
    DOWNLOAD: """huggingface_hub.hf_hub_download huggingface_hub.snapshot_download huggingface_hub.HfApi
        huggingface_hub.HfFileSystem huggingface_hub.Repository huggingface_hub.cached_download
        huggingface_hub.InferenceClient huggingface_hub.file_download.* torch.hub.*
        transformers.utils.hub.* transformers.utils.cached_file
        transformers.utils.cached_files transformers.file_utils.cached_path datasets.load_dataset nltk.download
        urllib.request.urlretrieve modelscope.* timm.create_model open_clip.create_model_and_transforms
        open_clip.create_model evaluate.load kagglehub.* torchvision.datasets.utils.*
        diffusers.utils.hub_utils.*""",
    ENVIRONMENT: "os.putenv os.unsetenv os.environb dotenv.*",
    HIDDEN: """base64.b64decode base64.b32decode base64.b16decode base64.a85decode base64.b85decode
        base64.decodebytes base64.urlsafe_b64decode binascii.unhexlify binascii.a2b_base64 zlib.decompress
        lzma.decompress bz2.decompress gzip.decompress codecs.decode codecs.getdecoder builtins.bytes.fromhex""",
    BUILTINS: """builtins.__dict__ builtins.globals builtins.__builtins__ builtins.__loader__ builtins.__spec__
        inspect.currentframe inspect.stack sys._getframe sys._current_frames sys.settrace sys.setprofile
        threading.settrace threading.setprofile gc.get_objects gc.get_referrers sys.addaudithook
        sys.setrecursionlimit""",
    STATE: """torch._C._jit_set_profiling_mode torch._C._jit_set_profiling_executor
        torch._C._jit_override_can_fuse_on_cpu torch._C._jit_override_can_fuse_on_gpu torch.set_default_dtype
        torch.set_default_device torch.set_default_tensor_type torch.set_num_threads torch.set_grad_enabled
        torch.manual_seed torch.cuda.manual_seed_all random.seed numpy.random.seed torch.use_deterministic_algorithms
        torch.set_float32_matmul_precision warnings.filterwarnings warnings.simplefilter logging.basicConfig
        logging.disable sys.setswitchinterval locale.setlocale torch.cuda.set_device
        torch.distributed.init_process_group""",
}

EXACT: dict[str, str] = {}
BELOW: dict[str, str] = {}
for _kind, _names in _TABLE.items():
    for _name in _names.split():
        (BELOW if _name.endswith(".*") else EXACT)[_name.removesuffix(".*")] = _kind

# Methods that tell what they do whatever the object is.
METHODS: dict[str, str] = {
    "write_text": FILES,
    "write_bytes": FILES,
    "symlink_to": FILES,
    "hardlink_to": FILES,
    "load_library": NATIVE,
    "hf_hub_download": DOWNLOAD,
    "snapshot_download": DOWNLOAD,
    "push_to_hub": NETWORK,
    "load_state_dict_from_url": DOWNLOAD,
    "load_module": DYNAMIC,
    "exec_module": DYNAMIC,
}

# Attributes that lead from any object to the interpreter's inside.
INTERNALS = frozenset(
    (
        "__subclasses__", "__globals__", "__builtins__", "__code__", "__closure__", "__loader__", "__getattribute__",
        "__bases__", "__base__", "f_globals", "f_locals", "f_builtins", "f_back", "gi_frame", "tb_frame",
    )
)  # fmt: skip

# Modules whose attributes must not be picked by a computed name without a word about it.
GUARDED = frozenset(
    (
        "os", "sys", "subprocess", "builtins", "importlib", "ctypes", "socket", "shutil", "pickle", "marshal",
        "posix", "_pickle", "pathlib",
    )
)  # fmt: skip


def kind_of(name: str) -> str | None:
    """Return the kind of finding that using the dotted name makes, None when the table does not know it."""
    kind = EXACT.get(name)
    if kind is not None:
        return kind
    while "." in name:
        name = name.rpartition(".")[0]
        if name in BELOW:
            return BELOW[name]
    return None
