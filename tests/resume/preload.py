"""What the fork server imports once, so that a start of the program costs milliseconds instead of seconds."""

import transformers.models.auto.modeling_auto
import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401
