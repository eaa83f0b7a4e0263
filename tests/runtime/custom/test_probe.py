"""Before approval, in a child that can neither write, talk nor start programs: only JSON comes back."""

from __future__ import annotations

import sys

import pytest
from runtime.custom.closures import closure, style

from uncrate.errors import CodeError
from uncrate.runtime.probe import probe

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux")]
HOSTILE = """
    import os
    import socket
    import subprocess
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    outcomes = {{}}

    def attempt(name, action):
        try:
            action()
            outcomes[name] = "done"
        except OSError as error:
            outcomes[name] = "denied"

    attempt("write", lambda: open({marker!r}, "w").close())
    attempt("append", lambda: os.open({marker!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    attempt("overwrite", lambda: os.open({there!r}, os.O_RDWR))
    attempt("delete", lambda: os.unlink({there!r}))
    attempt("rename", lambda: os.rename({there!r}, {marker!r}))
    attempt("folder", lambda: os.mkdir({marker!r}))
    attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port}), timeout=1))
    attempt("unix", lambda: socket.socket(socket.AF_UNIX))
    attempt("program", lambda: subprocess.run(["/bin/true"], check=True))
    attempt("shell", lambda: os.execv("/bin/true", ["true"]))
    attempt("kill", lambda: os.kill(os.getppid(), 0))
    print("noise on stdout that must not be taken for an answer")

    class Config(PretrainedConfig):
        model_type = "hostile"

    class Model(PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            raise RuntimeError(f"{{sorted(outcomes.items())}} {{dict(os.environ)}}")
"""


def test_shapes_and_count():
    closure_hash, files = style("wide2023")
    found = probe(
        closure_hash,
        files,
        "modeling_wide.WideForCausalLM",
        config={"hidden_size": 32, "vocab_size": 100},
        config_reference="configuration_wide.WideConfig",
    )
    assert found["error"] is None and found["class"] == "modeling_wide.WideForCausalLM"
    assert found["tensors"]["lm_head.weight"] == [100, 32] and found["parameters"] > 6400
    assert found["held"]["network"] and len(found["held"]["writes"]) >= 2


def test_nothing_gets_out(tmp_path):
    import socket

    there, marker = tmp_path / "there", tmp_path / "marker"
    there.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = HOSTILE.format(marker=str(marker), there=str(there), port=server.getsockname()[1])
        found = probe(*closure(m=source), "m.Model", config={})
    assert not marker.exists() and there.read_text() == "kept"
    assert found["error"].count("'denied'") == 11 and "'done'" not in found["error"], found["error"]
    assert "HOME" not in found["error"] and "PATH" not in found["error"]


def test_code_that_hangs_or_dies_is_a_sentence():
    with pytest.raises(CodeError, match="did not finish"):
        probe(*closure(m="import time\ntime.sleep(60)\n"), "m.Model", config={}, seconds=15)
    with pytest.raises(CodeError, match="without an answer"):
        probe(*closure(m="import os\nos._exit(3)\n"), "m.Model", config={})
    found = probe(*closure(m="raise SystemExit('\\x1b[31m')\n"), "m.Model", config={})
    assert "SystemExit" in found["error"] and "\x1b" not in found["error"]
