"""What the fork server imports once, so that a start of the program costs milliseconds instead of seconds."""

import accelerate  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import transformers.models.auto.modeling_auto
import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401
