from sgl_jax.srt.managers.scheduler import run_scheduler_process


class Engine:
    def __init__(self, tokenizer_manager):
        self.tokenizer_manager = tokenizer_manager

    def score(
        self,
        query=None,
        items=None,
        label_token_ids=None,
        apply_softmax=False,
        item_first=False,
    ):
        raise NotImplementedError


def _launch_subprocesses_or_threads(server_args, port_args=None):
    run_scheduler_process(server_args, port_args, None, port_args)
