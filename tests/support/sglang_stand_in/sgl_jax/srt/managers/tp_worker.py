from sgl_jax.srt.layers.logits_processor import LogitsMetadata
from sgl_jax.srt.model_executor.forward_batch_info import ForwardBatch


class ModelWorker:
    def __init__(self, model_runner):
        self.model_runner = model_runner

    def get_model_runner(self):
        return self.model_runner

    def forward_batch_generation(
        self,
        model_worker_batch,
        launch_done=None,
        skip_sample=False,
        sampling_metadata=None,
        forward_metadata=None,
        future_map=None,
        future_slots=None,
    ):
        runner = self.model_runner
        forward_batch = ForwardBatch.init_new(model_worker_batch, runner)
        runner.attn_backend.forward_metadata = runner.attn_backend.get_forward_metadata(
            model_worker_batch
        )
        metadata = LogitsMetadata.from_model_worker_batch(model_worker_batch, runner.mesh)
        output, _, _ = runner.forward(forward_batch, logits_metadata=metadata)
        return output, None, 0
